/* Matrix products with a packed matrix, in float32 and bfloat16.
 *
 * A block of the result stays in registers: as many sums whatever its width, so that none waits for the one before.
 */

#if defined(__AVX512BF16__)
#define HALF_PRODUCT 1
#else
#define HALF_PRODUCT 0
#endif

static int round_up(int value, int step) { return (value + step - 1) / step * step; }

/* c (SUMS / vecs rows, vecs vectors) = a times one packed panel (depth x vecs vectors). */
INLINE void panel_product(const float *a, int64_t lda, const float *w, int depth, float *c, int64_t ldc, int vecs) {
  const int rows = SUMS / vecs;
  vf acc[SUMS];
  for (int i = 0; i < SUMS; i++) acc[i] = (vf){0};
  for (int k = 0; k < depth; k++) {
    vf row[MOST_VECS];
    for (int j = 0; j < vecs; j++) row[j] = load(w + (k * vecs + j) * LANES);
#pragma GCC unroll 24 /* else a block of one vector keeps its sums in memory */
    for (int i = 0; i < rows; i++)
      for (int j = 0; j < vecs; j++) acc[i * vecs + j] += a[i * lda + k] * row[j];
  }
#pragma GCC unroll 24
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < vecs; j++) store(c + i * ldc + j * LANES, acc[i * vecs + j]);
}

#if HALF_PRODUCT
/* As panel_product, with bfloat16 factors: two steps along the depth at once. */
INLINE void panel_product_half(const uint16_t *a, int64_t lda, const uint16_t *w, int depth, float *c, int64_t ldc,
                               int vecs) {
  const int rows = SUMS / vecs;
  __m512 acc[SUMS];
  for (int i = 0; i < SUMS; i++) acc[i] = _mm512_setzero_ps();
  for (int k = 0; k < depth; k += 2) {
    __m512bh row[MOST_VECS];
    for (int j = 0; j < vecs; j++) row[j] = (__m512bh)_mm512_loadu_si512(w + (k * vecs + 2 * j) * LANES);
#pragma GCC unroll 24
    for (int i = 0; i < rows; i++) {
      int32_t pair;
      memcpy(&pair, a + i * lda + k, sizeof pair);
      __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
      for (int j = 0; j < vecs; j++) acc[i * vecs + j] = _mm512_dpbf16_ps(acc[i * vecs + j], both, row[j]);
    }
  }
#pragma GCC unroll 24
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < vecs; j++) _mm512_storeu_ps(c + i * ldc + j * LANES, acc[i * vecs + j]);
}
#endif

INLINE void block_product(const void *a, int64_t lda, const void *w, int depth, float *c, int64_t ldc, int vecs,
                          int half) {
#if HALF_PRODUCT
  if (half) {
    panel_product_half(a, lda, w, depth, c, ldc, vecs);
    return;
  }
#else
  (void)half;
#endif
  panel_product(a, lda, w, depth, c, ldc, vecs);
}

INLINE void whole_product(const void *a, int64_t lda, const void *w, int depth, int columns, float *c, int64_t ldc,
                          int rows, int half) {
  const int64_t size = half ? 2 : 4;
  for (int first = 0; first < columns; first += MOST_VECS * LANES) {
    const int left = (columns - first) / LANES, vecs = left < MOST_VECS ? left : MOST_VECS;
    for (int i = 0; i < rows; i += SUMS / vecs) {
      const char *from = (const char *)a + i * lda * size;
      float *to = c + i * ldc + first;
      if (vecs == 1)
        block_product(from, lda, w, depth, to, ldc, 1, half);
      else if (vecs == 2)
        block_product(from, lda, w, depth, to, ldc, 2, half);
#if MOST_VECS > 2
      else if (vecs == 3)
        block_product(from, lda, w, depth, to, ldc, 3, half);
#endif
#if MOST_VECS > 3
      else
        block_product(from, lda, w, depth, to, ldc, 4, half);
#endif
    }
    w = (const char *)w + (int64_t)depth * LANES * vecs * size;
  }
}

/* c = a times a packed matrix of `columns` columns (a multiple of LANES); a and c have room for rows rounded up to
 * SUMS. */
static void product(const float *a, int64_t lda, const float *w, int depth, int columns, float *c, int64_t ldc,
                    int rows) {
  whole_product(a, lda, w, depth, columns, c, ldc, rows, 0);
}

#if HALF_PRODUCT
/* As product, with factors in bfloat16; the depth is even. */
static void product_half(const uint16_t *a, int64_t lda, const uint16_t *w, int depth, int columns, float *c,
                         int64_t ldc, int rows) {
  whole_product(a, lda, w, depth, columns, c, ldc, rows, 1);
}
#endif

/* Whether products of bfloat16 factors are faster here than those of float32. */
int hsf_has_half_product(void) {
#if defined(__AVX512BF16__)
  return 1;
#else
  return 0;
#endif
}

int hsf_lanes(void) { return LANES; }

/* Floats that hsf_pack writes for a (depth x columns) matrix. */
int64_t hsf_packed_size(int32_t depth, int32_t columns) { return (int64_t)depth * round_up(columns, LANES); }

/* Pack w, given as (columns, depth) like the weight of a linear layer, into panels; zero where padded. */
void hsf_pack(const float *w, int32_t depth, int32_t columns, float *packed) {
  int padded = round_up(columns, LANES);
  for (int first = 0; first < padded; first += MOST_VECS * LANES) {
    int wide = padded - first < MOST_VECS * LANES ? padded - first : MOST_VECS * LANES;
    for (int k = 0; k < depth; k++)
      for (int j = 0; j < wide; j++) *packed++ = first + j < columns ? w[(int64_t)(first + j) * depth + k] : 0.0f;
  }
}

/* Pack w (columns, depth), given as bfloat16, into panels of pairs along an even depth. */
void hsf_pack_half(const uint16_t *w, int32_t depth, int32_t columns, uint16_t *packed) {
  int padded = round_up(columns, LANES);
  for (int first = 0; first < padded; first += MOST_VECS * LANES) {
    int wide = padded - first < MOST_VECS * LANES ? padded - first : MOST_VECS * LANES;
    for (int k = 0; k < depth; k += 2)
      for (int j = 0; j < wide; j++)
        for (int half = 0; half < 2; half++)
          *packed++ = first + j < columns ? w[(int64_t)(first + j) * depth + k + half] : 0;
  }
}
