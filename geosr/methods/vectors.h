/* Vector registers of floats, with GCC's vector types: one source for AVX-512, AVX2 and the rest. */
#pragma once
#include <stddef.h>

#if defined(__AVX512F__)
#define LANES 16 /* floats in a register */
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int Integers __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE Vector load(const float *from) { return *(const Vector *)from; }
INLINE void store(float *to, Vector x) { *(Vector *)to = x; }
/* `a` where the mask is set, else `b`. */
INLINE Vector choose(Integers mask, Vector a, Vector b) { return (Vector)(((Integers)a & mask) | ((Integers)b & ~mask)); }
