/* What a network takes from a base estimate, in one pass over its bands.
 *
 * Of every sample d, in units of its band's deviation, and of its detail arsinh((d - mean of 3 x 3) / level), linear
 * maps of all bands are made: features of both, and what skips the network. Elsewhere that takes a dozen passes.
 */

#define PIXELS (SUMS / ROWS * LANES) /* of a row that are multiplied at a time */

typedef struct {
  int64_t bands, rows, cols, plane, ratio;       /* plane: floats from band to band of the base estimate */
  int64_t row0, row1, col0, col1;                /* what skips the network is wanted for these */
  int64_t features[2], skipped;                  /* outputs of the maps: of d, of its detail; of the detail */
  const float *mean, *scale, *sharp;             /* by band: mean, 1 / deviation, 1 / level */
  const void *weight[3];                         /* (output rounded up to ROWS, band rounded up to 2), zero elsewhere */
  const float *bias[2];                          /* by output */
  void *out;                                     /* features (row, col, features[0] + features[1]) */
  float *low, *skip;                             /* (band, row / ratio, col / ratio), (skipped, window) */
  int32_t half;                                  /* weights and features are bfloat16 */
} hsf_estimate;

/* log(x) for normal x >= 1; relative error below 2e-7 (S. Moshier, Cephes). */
INLINE vf vlog(vf x) {
  vi bits = (vi)x;
  vi k = ((bits - 0x3f3504f3) >> 23); /* mantissa in [sqrt(1/2), sqrt(2)) */
  vf m = (vf)(bits - (k << 23)) - 1.0f, e = __builtin_convertvector(k, vf), q = m * m;
  vf p = all(7.0376836292e-2f);
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  return m + (p * m * q + e * -2.12194440e-4f - 0.5f * q) + e * 0.693359375f;
}

INLINE vf vsqrt(vf x) {
#if defined(__AVX512F__)
  return (vf)_mm512_sqrt_ps((__m512)x);
#else
  for (int i = 0; i < LANES; i++) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

/* As hsfuse.fusion.nets.ssrfn.arsinh. */
INLINE vf arsinh(vf x) {
  const vi sign = (vi)all(-0.0f);
  vf size = (vf)((vi)x & ~sign), square = x * x;
  square = pick(square > 1e38f, all(1e38f), square);
  vf t = size + square / (1.0f + vsqrt(1.0f + square)), u = 1.0f + t;
  vf value = vlog(u) + (t - (u - 1.0f)) / u; /* what rounding took from 1 + t */
  return (vf)((vi)value | ((vi)x & sign));
}

/* Sum of rows into a line with replicated ends, which starts one float before `line`. */
static void add_rows(const float *const *row, int64_t count, int64_t cols, float *line) {
  for (int64_t j = 0; j < cols; j++) line[j] = row[0][j];
  for (int64_t r = 1; r < count; r++)
    for (int64_t j = 0; j < cols; j++) line[j] += row[r][j];
  line[-1] = line[0];
  line[cols] = line[cols - 1];
}

/* Where sample j of a band lies in panels of PIXELS pixels and `depth` bands, in samples. */
INLINE int64_t place(int64_t j, int64_t band, int64_t depth, int half) {
  const int64_t panel = j / PIXELS * PIXELS * depth, at = j % PIXELS;
  return half ? panel + band / 2 * 2 * PIXELS + at / LANES * 2 * LANES + 2 * (at % LANES) + band % 2
              : panel + band * PIXELS + at;
}

/* Two bands' samples of LANES pixels, or one's, go to their panels. */
INLINE void deposit(void *panels, int64_t at, vf first, vf second, int half) {
  if (!half) {
    store((float *)panels + at, first);
    return;
  }
  uint16_t *to = (uint16_t *)panels + at;
#if defined(__AVX512BF16__)
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order, both));
#else
  uint16_t low[LANES], high[LANES];
  store_half(low, first);
  store_half(high, second);
  for (int i = 0; i < LANES; i++) to[2 * i] = low[i], to[2 * i + 1] = high[i];
#endif
}

/* One row of all bands: panels of d and of its detail. */
INLINE void read_row(const hsf_estimate *p, const float *base, int64_t i, int64_t depth, float *line, void *plain,
                     void *detail, int half) {
  const int64_t wide = (p->cols + LANES - 1) / LANES * LANES, room = p->cols + 2 + LANES, step = half ? 2 : 1;
  for (int64_t band = 0; band < p->bands; band += step) {
    const float *row[2];
    float mean[2], scale[2], sharp[2];
    for (int64_t s = 0; s < step; s++) {
      const int64_t k = band + s < p->bands ? band + s : band; /* an odd last band twice, with weights of zero */
      const float *at = base + k * p->plane + i * p->cols;
      const float *near[3] = {i ? at - p->cols : at, at, i + 1 < p->rows ? at + p->cols : at};
      add_rows(near, 3, p->cols, line + s * room + 1);
      row[s] = at, mean[s] = p->mean[k], scale[s] = p->scale[k];
      sharp[s] = scale[s] * p->sharp[k] * (1.0f / 9.0f);
    }
    for (int64_t j = 0; j < wide; j += LANES) {
      vf d[2], fine[2];
      for (int64_t s = 0; s < step; s++) {
        const float *sum = line + s * room + j;
        vf value;
        if (j + LANES <= p->cols)
          value = load(row[s] + j);
        else { /* the last few of a plane: nothing beyond may be read */
          value = (vf){0};
          memcpy(&value, row[s] + j, (p->cols - j) * sizeof(float));
        }
        d[s] = (value - mean[s]) * scale[s];
        fine[s] = arsinh((9.0f * value - (load(sum) + load(sum + 1) + load(sum + 2))) * sharp[s]);
      }
      const int64_t at = place(j, band, depth, half);
      deposit(plain, at, d[0], half ? d[1] : d[0], half);
      deposit(detail, at, fine[0], half ? fine[1] : fine[0], half);
    }
  }
}

/* outputs (count x PIXELS) = weights times a panel */
INLINE void map_panel(const void *weight, const void *panels, int64_t panel, int64_t depth, int64_t count, float *out,
                      int half) {
  const int rows = round_up((int)count, ROWS);
#if defined(__AVX512BF16__)
  if (half) {
    product_half(weight, depth, (const uint16_t *)panels + panel * PIXELS * depth, (int)depth, PIXELS, out, PIXELS,
                 rows);
    return;
  }
#endif
  (void)half;
  product(weight, depth, (const float *)panels + panel * PIXELS * depth, (int)depth, PIXELS, out, PIXELS, rows);
}

INLINE int32_t read_estimate(const hsf_estimate *p, const float *base, int64_t first, int64_t last, int half) {
  const int64_t depth = (p->bands + 1) / 2 * 2, panels = (p->cols + PIXELS - 1) / PIXELS, size = half ? 2 : 4;
  const int64_t most = round_up((int)(p->features[0] + p->features[1]), ROWS) + round_up((int)p->skipped, ROWS) + ROWS;
  const int64_t room = 2 * (p->cols + 2 + LANES), panel_bytes = panels * PIXELS * depth * size;
  const int64_t coarse = p->cols / p->ratio, wide = p->features[0] + p->features[1];
  char *memory;
  if (posix_memalign((void **)&memory, ALIGNMENT, 2 * panel_bytes + (most * PIXELS + room) * sizeof(float) + 256))
    return 1;
  void *plain = memory, *detail = memory + panel_bytes;
  float *maps = (float *)(memory + 2 * panel_bytes), *line = maps + most * PIXELS;
  memset(memory, 0, 2 * panel_bytes + (most * PIXELS + room) * sizeof(float) + 256);
  for (int64_t i = first; i < last; i++) {
    read_row(p, base, i, depth, line, plain, detail, half);
    const int skips = i >= p->row0 && i < p->row1;
    for (int64_t panel = 0; panel < panels; panel++) {
      const int64_t col = panel * PIXELS, count = p->cols - col < PIXELS ? p->cols - col : PIXELS;
      float *second = maps + round_up((int)p->features[0], ROWS) * PIXELS;
      map_panel(p->weight[0], plain, panel, depth, p->features[0], maps, half);
      map_panel(p->weight[1], detail, panel, depth, p->features[1], second, half);
      for (int64_t j = 0; j < count; j++) {
        const int64_t to = (i * p->cols + col + j) * wide;
        for (int64_t k = 0; k < wide; k++) {
          const int64_t own = k < p->features[0] ? k : k - p->features[0];
          const float value = k < p->features[0] ? maps[own * PIXELS + j] + p->bias[0][own]
                                                 : second[own * PIXELS + j] + p->bias[1][own];
          if (half) {
            uint32_t bits;
            memcpy(&bits, &value, sizeof bits);
            ((uint16_t *)p->out)[to + k] = (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
          } else
            ((float *)p->out)[to + k] = value;
        }
      }
      const int64_t from = col > p->col0 ? col : p->col0, end = col + count < p->col1 ? col + count : p->col1;
      if (!skips || from >= end) continue;
      map_panel(p->weight[2], detail, panel, depth, p->skipped, maps, half);
      const int64_t across = p->col1 - p->col0, plane = (p->row1 - p->row0) * across;
      for (int64_t k = 0; k < p->skipped; k++)
        memcpy(p->skip + k * plane + (i - p->row0) * across + from - p->col0, maps + k * PIXELS + from - col,
               (end - from) * sizeof(float));
    }
    if ((i + 1) % p->ratio) continue;
    for (int64_t band = 0; band < p->bands; band++) {
      const float *top = base + band * p->plane + (i + 1 - p->ratio) * p->cols;
      for (int64_t j = 0; j < p->cols; j++) line[j] = top[j];
      for (int64_t r = 1; r < p->ratio; r++)
        for (int64_t j = 0; j < p->cols; j++) line[j] += top[r * p->cols + j];
      float *to = p->low + (band * (p->rows / p->ratio) + i / p->ratio) * coarse;
      const float share = 1.0f / (float)(p->ratio * p->ratio);
      for (int64_t j = 0; j < coarse; j++) {
        float total = 0.0f;
        for (int64_t r = 0; r < p->ratio; r++) total += line[j * p->ratio + r];
        to[j] = (total * share - p->mean[band]) * p->scale[band];
      }
    }
  }
  free(memory);
  return 0;
}

/* Rows [first, last) of a base estimate, multiples of the ratio. Returns 0, or 1 when there is no memory. */
int32_t hsf_read_estimate(const hsf_estimate *p, const float *base, int64_t first, int64_t last) {
#if defined(__AVX512BF16__)
  if (p->half) return read_estimate(p, base, first, last, 1);
#else
  if (p->half) return 2;
#endif
  return read_estimate(p, base, first, last, 0);
}
