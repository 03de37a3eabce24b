/* What lies between the matrix products of a Llama-type model, each operation in one pass over memory.

   Arrays are contiguous, row by row. A row's result does not depend on the other rows. Compiled on the machine that
   runs it (compiled.py); the gradients are tested against those of torch's operations
   (tests/pipeline/training/test_packed_compiled.py). */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef int64_t size;

typedef union {
    uint32_t bits;
    float value;
} word;

/* e^x to within two units in the last place, in a form that compilers turn into vector instructions; 0 below e^-87. NaN
   stays NaN. */
static inline float exponential(float x) {
    int nothing = x < -87.0f;
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = nearbyintf(x * 1.44269504f);
    float r = x - n * 0.693145752f - n * 1.42860677e-6f; /* ln 2 in two parts */
    float series = 1.0f + r * (1.0f + r * (0.5f + r * (0.166666657f + r * (0.0416665795f + r * (0.00833345205f + r * 0.00139304355f)))));
    word power = {((uint32_t)(int32_t)n + 127u) << 23}; /* 2^n */
    return nothing ? 0.0f : series * power.value;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

static inline float from_bfloat16(uint16_t x) {
    word wide = {(uint32_t)x << 16};
    return wide.value;
}

/* Rounds to the nearest, ties to even. */
static inline uint16_t to_bfloat16(float x) {
    word wide;
    wide.value = x;
    uint32_t rounded = (wide.bits + 0x7fffu + ((wide.bits >> 16) & 1u)) >> 16;
    return (uint16_t)(x != x ? 0x7fc0u : rounded);
}

/* The gradient of a rotation by angles (`turn`), at two places that it mixes, from that of what was turned. */
typedef struct {
    float low, high;
} pair;

static inline pair turned_back(const float *restrict x, const float *restrict cosine, const float *restrict sine,
                               size low, size high) {
    return (pair){x[low] * cosine[low] + x[high] * sine[high], x[high] * cosine[high] + x[low] * sine[low]};
}

#include "queries.h"

/* REAL is the type in which linear layers multiply: what they read, and what they give. All else is float. */
#define REAL float
#define NAME(kernel) kernel##_float32
#define WIDEN(x) (x)
#define NARROW(x) (x)
#include "operations.h"
#include "attention.h"
#undef REAL
#undef NAME
#undef WIDEN
#undef NARROW

#define REAL uint16_t
#define NAME(kernel) kernel##_bfloat16
#define WIDEN(x) from_bfloat16(x)
#define NARROW(x) to_bfloat16(x)
#include "operations.h"
#include "attention.h"
