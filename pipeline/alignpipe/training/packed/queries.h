/* What attention computes for a few queries of one head, in float; kernels.c includes this file.

   Arrays along a row's positions or a head's values have room for a multiple of LANE. Queries are taken TOGETHER at
   once: a key that was read serves them all, and their sums do not wait for each other. */

enum { LANE = 16, TOGETHER = 4 };

/* LANE floats, on which compilers have operators; they make one, two or four vectors of them, as the processor has. */
typedef float lane __attribute__((vector_size(LANE * sizeof(float)), may_alias));

static inline size padded(size n) { return (n + LANE - 1) / LANE * LANE; }

/* Memory for a row of up to `width` positions and a head of d values, both padded. */
typedef struct {
    size width, d;
    float *keys, *values, *key_grads, *value_grads; /* [width, d] */
    float *key_columns, *value_columns;             /* [d, width] */
    float *weights, *weight_grads;                  /* [TOGETHER, width] */
    float *queries, *grads, *mixed;                 /* [TOGETHER, d] */
} room;

/* How many floats `rooms` divides. */
int64_t attention_room(size width, size d) {
    return 6 * padded(width) * padded(d) + 2 * TOGETHER * padded(width) + 3 * TOGETHER * padded(d);
}

/* The memory divided, with zeros in it: what is padding stays so. */
static room rooms(float *memory, size width, size d) {
    room r = {.width = padded(width), .d = padded(d)};
    memset(memory, 0, (size_t)attention_room(width, d) * sizeof(float));
    float **tables[] = {&r.keys, &r.values, &r.key_grads, &r.value_grads, &r.key_columns, &r.value_columns};
    for (int i = 0; i < 6; i++, memory += r.width * r.d) *tables[i] = memory;
    float **along_row[] = {&r.weights, &r.weight_grads};
    for (int i = 0; i < 2; i++, memory += TOGETHER * r.width) *along_row[i] = memory;
    float **of_head[] = {&r.queries, &r.grads, &r.mixed};
    for (int i = 0; i < 3; i++, memory += TOGETHER * r.d) *of_head[i] = memory;
    return r;
}

static inline lane *at_lane(float *x) { return (lane *)x; }
static inline lane lane_of(const float *x) { return *(const lane *)x; }

/* Queries of one row that are computed at once, from `begin` to `end`; the farthest sees `seen` cells, and the first few
   of them `each`. */
typedef struct {
    size begin, end, seen, each[TOGETHER];
} few;

/* As many as there are from `begin` on and before `end`, at most `most`. */
static inline few few_of_row(const int64_t *restrict at, size begin, size end, size most, size width) {
    few found = {.begin = begin, .end = begin};
    for (; found.end < end && found.end < begin + most && at[found.end] / width == at[begin] / width; found.end++) {
        size seen = at[found.end] % width + 1, number = found.end - begin;
        if (number < TOGETHER) found.each[number] = seen;
        if (seen > found.seen) found.seen = seen;
    }
    for (size number = found.end - begin; number < TOGETHER; number++) found.each[number] = found.seen;
    return found;
}

/* out[k, j] = sum over i < inner of x[k, i] * table[i, j] for all j < outer; x [TOGETHER, x_width], table and out of rows of
   `width`. */
static void products(const float *restrict x, size x_width, const float *restrict table, size width, size inner,
                     size outer, float *restrict out) {
    for (size j = 0; j < outer; j += LANE) {
        lane sum[TOGETHER] = {0};
        for (size i = 0; i < inner; i++) {
            lane row = lane_of(table + i * width + j);
            for (int k = 0; k < TOGETHER; k++) sum[k] += x[k * x_width + i] * row;
        }
        for (int k = 0; k < TOGETHER; k++) *at_lane(out + k * width + j) = sum[k];
    }
}

/* rows[j, c] += sum_k weights[k, j] * x[k, c] for j < n; weights [TOGETHER, width], x [TOGETHER, d], rows [n, d]. */
static void add_products(const float *restrict weights, const float *restrict x, size width, size d, size n,
                         float *restrict rows) {
    for (size c = 0; c < d; c += LANE) {
        lane added[TOGETHER];
        for (int k = 0; k < TOGETHER; k++) added[k] = lane_of(x + k * d + c);
        for (size j = 0; j < n; j++) {
            lane row = lane_of(rows + j * d + c);
            for (int k = 0; k < TOGETHER; k++) row += weights[k * width + j] * added[k];
            *at_lane(rows + j * d + c) = row;
        }
    }
}

/* The sums over the lanes of TOGETHER values, side by side: one sum waits for its parts. */
static void totals(lane x[TOGETHER], float *restrict out) {
    float parts[TOGETHER][LANE];
    memcpy(parts, x, sizeof(parts));
    for (int half = LANE / 2; half > 0; half /= 2)
        for (int k = 0; k < TOGETHER; k++)
            for (int c = 0; c < half; c++) parts[k][c] += parts[k][c + half];
    for (int k = 0; k < TOGETHER; k++) out[k] = parts[k][0];
}

/* Let query k see the first seen[k] positions only: `rest` in the others. */
static void hide(float *restrict x, size width, const size *restrict seen, size n, float rest) {
    for (int k = 0; k < TOGETHER; k++)
        for (size j = seen[k]; j < padded(n); j++) x[k * width + j] = rest;
}

/* Exponentials of scale * x - largest, which divided by `sums` are the softmax; x [TOGETHER, n], -infinity where nothing
   is to be seen. `log_sums` are the logarithms of all exponentials' sums. */
static void exponentials(float *restrict x, float scale, size width, size n, float *restrict sums,
                         float *restrict log_sums) {
    float largest[TOGETHER][LANE];
    lane sum[TOGETHER] = {0};
    for (int k = 0; k < TOGETHER; k++) {
        for (int c = 0; c < LANE; c++) largest[k][c] = -INFINITY;
        for (size j = 0; j < n; j += LANE)
            for (int c = 0; c < LANE; c++) {
                float value = x[k * width + j + c];
                largest[k][c] = value > largest[k][c] ? value : largest[k][c];
            }
    }
    for (int half = LANE / 2; half > 0; half /= 2)
        for (int k = 0; k < TOGETHER; k++)
            for (int c = 0; c < half; c++)
                largest[k][c] = largest[k][c + half] > largest[k][c] ? largest[k][c + half] : largest[k][c];
    for (int k = 0; k < TOGETHER; k++) {
        float most = scale * largest[k][0];
        for (size j = 0; j < n; j += LANE) {
            float *here = x + k * width + j;
            for (int c = 0; c < LANE; c++) here[c] = exponential(scale * here[c] - most);
            sum[k] += lane_of(here);
        }
        log_sums[k] = most;
    }
    totals(sum, sums);
    for (int k = 0; k < TOGETHER; k++) log_sums[k] += logf(sums[k]);
}

/* From products x of queries and keys to their softmax, given their `log_sums`, and from the gradients of that to those
   of the products. The sums are taken once more: their rounded logarithms would not quite make probabilities. */
static void softmax_backward(float *restrict x, float *restrict grads, const float *restrict log_sums, float scale,
                             size width, size n) {
    lane sum[TOGETHER] = {0}, weighted[TOGETHER] = {0};
    float sums[TOGETHER], weighted_sums[TOGETHER];
    for (int k = 0; k < TOGETHER; k++)
        for (size j = 0; j < n; j += LANE) {
            float *here = x + k * width + j;
            for (int c = 0; c < LANE; c++) here[c] = exponential(scale * here[c] - log_sums[k]);
            sum[k] += lane_of(here);
            weighted[k] += lane_of(here) * lane_of(grads + k * width + j);
        }
    totals(sum, sums);
    totals(weighted, weighted_sums);
    for (int k = 0; k < TOGETHER; k++) {
        float part = 1.0f / sums[k], mean = part * weighted_sums[k];
        for (size j = 0; j < n; j += LANE) {
            lane *weights = at_lane(x + k * width + j), *grad = at_lane(grads + k * width + j);
            *weights *= part;
            *grad = scale * *weights * (*grad - mean);
        }
    }
}
