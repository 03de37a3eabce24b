/* The kernels of kernels.c, which includes this file once for each REAL. */

/* out = x * scale * weight with scale = 1 / sqrt(mean(x^2) + epsilon): x, out [n, width], weight [width], scale [n]. */
void NAME(rms_norm)(const float *restrict x, const float *restrict weight, float epsilon, REAL *restrict out,
                    float *restrict scale, size n, size width) {
    for (size i = 0; i < n; i++, x += width, out += width) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (size j = 0; j < width; j++) sum += x[j] * x[j];
        float s = scale[i] = 1.0f / sqrtf(sum / (float)width + epsilon);
        for (size j = 0; j < width; j++) out[j] = NARROW(x[j] * s * weight[j]);
    }
}

void NAME(rms_norm_backward)(const REAL *restrict grad, const float *restrict x, const float *restrict weight,
                             const float *restrict scale, float *restrict x_grad, float *restrict weight_grad, size n,
                             size width) {
    memset(weight_grad, 0, (size_t)width * sizeof(float));
    for (size i = 0; i < n; i++, grad += width, x += width, x_grad += width) {
        float s = scale[i], sum = 0;
#pragma omp simd reduction(+ : sum)
        for (size j = 0; j < width; j++) sum += WIDEN(grad[j]) * weight[j] * x[j];
        float projection = sum * s * s / (float)width;
        for (size j = 0; j < width; j++) {
            float g = WIDEN(grad[j]);
            weight_grad[j] += g * x[j] * s;
            x_grad[j] = (g * weight[j] - x[j] * projection) * s;
        }
    }
}

/* out = x * cosine + (x with its halves exchanged) * sine. */
static inline void NAME(turn)(const REAL *restrict x, const float *restrict cosine, const float *restrict sine,
                              float *restrict out, size d) {
    for (size low = 0, high = d / 2; high < d; low++, high++) {
        float first = WIDEN(x[low]), second = WIDEN(x[high]);
        out[low] = first * cosine[low] + second * sine[low];
        out[high] = second * cosine[high] + first * sine[high];
    }
}

/* Tokens into a grid: out[c] = x[tokens[c]], rotated by the token's angles unless there are none (cosines NULL).
   x [n, heads, d], out [cells, heads, d], cosines, sines [n, d]. */
void NAME(place)(const REAL *restrict x, const int64_t *restrict tokens, const float *restrict cosines,
                 const float *restrict sines, float *restrict out, size cells, size heads, size d) {
    for (size c = 0; c < cells; c++) {
        const REAL *from = x + tokens[c] * heads * d;
        if (cosines == NULL) {
            for (size j = 0; j < heads * d; j++) out[j] = WIDEN(from[j]);
            out += heads * d;
            continue;
        }
        const float *cosine = cosines + tokens[c] * d, *sine = sines + tokens[c] * d;
        for (size k = 0; k < heads; k++, from += d, out += d) NAME(turn)(from, cosine, sine, out, d);
    }
}

/* x_grad[t] from the cell of token t, plus (`shared` pairs) from further cells that show it. With pairs, REAL is float:
   sums are not rounded on the way. */
void NAME(place_backward)(const float *restrict grad, const int64_t *restrict cells,
                          const int64_t *restrict shared_tokens, const int64_t *restrict shared_cells, size shared,
                          const float *restrict cosines, const float *restrict sines, REAL *restrict x_grad, size n,
                          size heads, size d) {
    for (size i = 0; i < n + shared; i++) {
        size token = i < n ? i : shared_tokens[i - n];
        const float *from = grad + (i < n ? cells[i] : shared_cells[i - n]) * heads * d;
        REAL *to = x_grad + token * heads * d;
        if (i < n) memset(to, 0, (size_t)(heads * d) * sizeof(REAL)); /* 0 in both types */
        if (cosines == NULL) {
            for (size j = 0; j < heads * d; j++) to[j] = NARROW(WIDEN(to[j]) + from[j]);
            continue;
        }
        const float *cosine = cosines + token * d, *sine = sines + token * d;
        for (size k = 0; k < heads; k++, from += d, to += d)
            for (size low = 0, high = d / 2; high < d; low++, high++) {
                pair back = turned_back(from, cosine, sine, low, high);
                to[low] = NARROW(WIDEN(to[low]) + back.low);
                to[high] = NARROW(WIDEN(to[high]) + back.high);
            }
    }
}

/* Tokens out of a grid: out[i] = grid[cells[i]]; grid [all, width], out [n, width]. */
void NAME(take)(const float *restrict grid, const int64_t *restrict cells, REAL *restrict out, size n, size width) {
    for (size i = 0; i < n; i++, out += width) {
        const float *from = grid + cells[i] * width;
        for (size j = 0; j < width; j++) out[j] = NARROW(from[j]);
    }
}

void NAME(take_backward)(const REAL *restrict grad, const int64_t *restrict cells, float *restrict grid_grad, size n,
                         size all, size width) {
    memset(grid_grad, 0, (size_t)(all * width) * sizeof(float));
    for (size i = 0; i < n; i++, grad += width) {
        float *to = grid_grad + cells[i] * width;
        for (size j = 0; j < width; j++) to[j] = WIDEN(grad[j]);
    }
}

/* out = gate * sigmoid(gate) * up, of n numbers. */
void NAME(swiglu)(const REAL *restrict gate, const REAL *restrict up, REAL *restrict out, size n) {
    for (size i = 0; i < n; i++) {
        float g = WIDEN(gate[i]);
        out[i] = NARROW(g * sigmoid(g) * WIDEN(up[i]));
    }
}

void NAME(swiglu_backward)(const REAL *restrict grad, const REAL *restrict gate, const REAL *restrict up,
                           REAL *restrict gate_grad, REAL *restrict up_grad, size n) {
    for (size i = 0; i < n; i++) {
        float d = WIDEN(grad[i]), g = WIDEN(gate[i]), s = sigmoid(g);
        up_grad[i] = NARROW(d * g * s);
        gate_grad[i] = NARROW(d * WIDEN(up[i]) * (s + g * s * (1.0f - s)));
    }
}
