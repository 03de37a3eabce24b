/* Causal attention over packed tokens; kernels.c includes this file once for each REAL.

   Query i of m lies in the cell at[i] of a grid with rows of `width` cells, and sees that cell and those before it in its
   row; `tokens` says which of n tokens each cell shows. Queries and keys are rotated by their angles, cosines and signed
   sines [2, m, d] and [2, n, d]. Heads share key heads in groups. A query's result does not depend on the others, where
   all are finite.
   `memory` is to work in, `attention_room` floats. */

/* One key head's rotated keys and values of the tokens in `count` cells. */
static inline void NAME(gather)(const REAL *restrict k, const REAL *restrict v, const int64_t *restrict tokens,
                                const float *restrict angles, size n, size key_head, size key_heads, size d, size count,
                                int with_gradients, room r) {
    for (size j = 0; j < count; j++) {
        size token = tokens[j], there = (token * key_heads + key_head) * d;
        float *key = r.keys + j * r.d, *value = r.values + j * r.d;
        NAME(turn)(k + there, angles + token * d, angles + (n + token) * d, key, d);
        for (size c = 0; c < d; c++) value[c] = WIDEN(v[there + c]);
        for (size c = 0; c < d; c++) r.key_columns[c * r.width + j] = key[c];
        for (size c = 0; with_gradients && c < d; c++) r.value_columns[c * r.width + j] = value[c];
    }
}

/* out [m, heads, d]; log_sums [m, heads] are the logarithms of the softmaxes' denominators. */
void NAME(attention)(const REAL *restrict q, const REAL *restrict k, const REAL *restrict v, const int64_t *restrict at,
                     const int64_t *restrict tokens, const float *restrict q_angles, const float *restrict k_angles,
                     float scale, REAL *restrict out, float *restrict log_sums, float *restrict memory, size m, size n,
                     size heads, size key_heads, size d, size width) {
    room r = rooms(memory, width, d);
    size group = heads / key_heads;
    float sums[TOGETHER], logarithms[TOGETHER];
    for (few row = {0}; row.end < m;) {
        row = few_of_row(at, row.end, m, m, width);
        const int64_t *cells = tokens + at[row.begin] / width * width;
        for (size head = 0; head < heads; head++) {
            if (head % group == 0)
                NAME(gather)(k, v, cells, k_angles, n, head / group, key_heads, d, row.seen, 0, r);
            for (few some = {.end = row.begin}; some.end < row.end;) {
                some = few_of_row(at, some.end, row.end, TOGETHER, width);
                for (size i = some.begin; i < some.end; i++)
                    NAME(turn)(q + (i * heads + head) * d, q_angles + i * d, q_angles + (m + i) * d,
                               r.queries + (i - some.begin) * r.d, d);
                products(r.queries, r.d, r.key_columns, r.width, r.d, some.seen, r.weights);
                hide(r.weights, r.width, some.each, some.seen, -INFINITY);
                exponentials(r.weights, scale, r.width, some.seen, sums, logarithms);
                products(r.weights, r.width, r.values, r.d, some.seen, r.d, r.mixed);
                for (size i = some.begin; i < some.end; i++) {
                    log_sums[i * heads + head] = logarithms[i - some.begin];
                    float part = 1.0f / sums[i - some.begin];
                    for (size c = 0; c < d; c++)
                        out[(i * heads + head) * d + c] = NARROW(part * r.mixed[(i - some.begin) * r.d + c]);
                }
            }
        }
    }
}

/* q_grad [m, heads, d]; k_grad and v_grad [n, key_heads, d] are sums over all cells that show a token. */
void NAME(attention_backward)(const REAL *restrict grad, const REAL *restrict q, const REAL *restrict k,
                              const REAL *restrict v, const int64_t *restrict at, const int64_t *restrict tokens,
                              const float *restrict q_angles, const float *restrict k_angles, float scale,
                              const float *restrict log_sums, REAL *restrict q_grad, float *restrict k_grad,
                              float *restrict v_grad, float *restrict memory, size m, size n, size heads,
                              size key_heads, size d, size width) {
    room r = rooms(memory, width, d);
    size group = heads / key_heads;
    float logarithms[TOGETHER];
    memset(k_grad, 0, (size_t)(n * key_heads * d) * sizeof(float));
    memset(v_grad, 0, (size_t)(n * key_heads * d) * sizeof(float));
    for (few row = {0}; row.end < m;) {
        row = few_of_row(at, row.end, m, m, width);
        const int64_t *cells = tokens + at[row.begin] / width * width;
        for (size head = 0; head < heads; head++) {
            if (head % group == 0) {
                NAME(gather)(k, v, cells, k_angles, n, head / group, key_heads, d, row.seen, 1, r);
                memset(r.key_grads, 0, (size_t)(row.seen * r.d) * sizeof(float));
                memset(r.value_grads, 0, (size_t)(row.seen * r.d) * sizeof(float));
            }
            for (few some = {.end = row.begin}; some.end < row.end;) {
                some = few_of_row(at, some.end, row.end, TOGETHER, width);
                size present = some.end - some.begin;
                for (size i = some.begin; i < some.end; i++) {
                    size here = (i * heads + head) * d;
                    NAME(turn)(q + here, q_angles + i * d, q_angles + (m + i) * d, r.queries + (i - some.begin) * r.d, d);
                    for (size c = 0; c < d; c++) r.grads[(i - some.begin) * r.d + c] = WIDEN(grad[here + c]);
                }
                memset(r.queries + present * r.d, 0, (size_t)((TOGETHER - present) * r.d) * sizeof(float));
                memset(r.grads + present * r.d, 0, (size_t)((TOGETHER - present) * r.d) * sizeof(float));
                products(r.queries, r.d, r.key_columns, r.width, r.d, some.seen, r.weights);
                products(r.grads, r.d, r.value_columns, r.width, r.d, some.seen, r.weight_grads);
                for (int k = 0; k < TOGETHER; k++)
                    logarithms[k] = k < present ? log_sums[(some.begin + k) * heads + head] : 0;
                hide(r.weights, r.width, some.each, some.seen, -INFINITY);
                hide(r.weight_grads, r.width, some.each, some.seen, 0);
                softmax_backward(r.weights, r.weight_grads, logarithms, scale, r.width, some.seen);
                products(r.weight_grads, r.width, r.keys, r.d, some.seen, r.d, r.mixed);
                for (size i = some.begin; i < some.end; i++)
                    for (size low = 0, high = d / 2, here = (i * heads + head) * d; high < d; low++, high++) {
                        pair back = turned_back(r.mixed + (i - some.begin) * r.d, q_angles + i * d,
                                                q_angles + (m + i) * d, low, high);
                        q_grad[here + low] = NARROW(back.low);
                        q_grad[here + high] = NARROW(back.high);
                    }
                add_products(r.weight_grads, r.queries, r.width, r.d, some.seen, r.key_grads);
                add_products(r.weights, r.grads, r.width, r.d, some.seen, r.value_grads);
            }
            for (size j = 0; (head + 1) % group == 0 && j < row.seen; j++) {
                size token = cells[j], there = (token * key_heads + head / group) * d;
                for (size low = 0, high = d / 2; high < d; low++, high++) {
                    pair back = turned_back(r.key_grads + j * r.d, k_angles + token * d, k_angles + (n + token) * d,
                                            low, high);
                    k_grad[there + low] += back.low;
                    k_grad[there + high] += back.high;
                }
                for (size c = 0; c < d; c++) v_grad[there + c] += r.value_grads[j * r.d + c];
            }
        }
    }
}
