/* 3x3 convolution of images whose channels lie side by side, zero outside, by Winograd's F(2x2, 3x3).
 *
 * A tile of 4 x 4 input pixels yields 2 x 2 output pixels by 16 products instead of 36: both sides are transformed
 * by additions, and each of the 16 transformed values has a matrix product over the channels of its own. Tiles are
 * worked off in runs that stay in the second-level cache. Bias, an image to add and SiLU come with the last pass.
 *
 * A. Lavin, S. Gray, Fast algorithms for convolutional neural networks, CVPR 2016.
 */

#define SPOTS 16 /* values of a transformed tile */
#define RUN 48   /* tiles of a run; a multiple of the rows of every product's block */
#define GROUP 32 /* channels that are transformed together in bfloat16 */

/* Mirrored by a ctypes.Structure. */
typedef struct {
  int32_t inputs, outputs; /* channels; outputs is a multiple of LANES */
  int32_t half, silu;      /* float32 or bfloat16; whether SiLU follows */
  const void *weight;      /* 16 packed matrices, depth rounded up to LANES */
  const float *bias;       /* or null */
} hsf_conv;

/* Images, one after the other. */
typedef struct {
  int64_t rows, cols;
  const void *in, *other; /* other: to add before SiLU, of the output's shape, or null */
  void *out;
} hsf_images;

/* `count` values, the rest zero. */
INLINE vf get_some(const float *p, int count) {
#if defined(__AVX512F__)
  const __mmask16 mask = count < LANES ? (1 << count) - 1 : 0xffff;
  return (vf)_mm512_maskz_loadu_ps(mask, p);
#else
  if (count >= LANES) return load(p);
  float values[LANES] = {0};
  memcpy(values, p, count * sizeof *values);
  return load(values);
#endif
}

/* Channels as the transformed input has them. */
int32_t hsf_conv_depth(int32_t inputs, int32_t half) { return round_up(inputs, half ? GROUP : LANES); }

/* The rows of a column of four pixels, transformed. */
INLINE void transform_column(const float *const row[4], int64_t at, int inside, int count, vf to[4]) {
  vf d[4];
  for (int r = 0; r < 4; r++) d[r] = inside && row[r] ? get_some(row[r] + at, count) : (vf){0};
  to[0] = d[0] - d[2];
  to[1] = d[1] + d[2];
  to[2] = d[2] - d[1];
  to[3] = d[1] - d[3];
}

/* Transform `tiles` tiles of one row of tiles: v[spot][tile][channel], `spot` values apart. */
INLINE void enter_tiles(const hsf_conv *p, const hsf_images *at, const float *const row[4], int64_t first, int tiles,
                        float *v, int64_t spot, int depth) {
  for (int ch = 0; ch < depth; ch += LANES) {
    const int count = p->inputs - ch;
    vf c[4][4]; /* column, row */
    for (int x = 0; x < 2; x++) {
      const int64_t col = 2 * first - 1 + x;
      transform_column(row, col * p->inputs + ch, col >= 0 && col < at->cols, count, c[x]);
    }
    for (int t = 0; t < tiles; t++) {
      for (int x = 2; x < 4; x++) {
        const int64_t col = 2 * (first + t) - 1 + x;
        transform_column(row, col * p->inputs + ch, col < at->cols, count, c[x]);
      }
      const int64_t to = (int64_t)t * depth + ch;
      for (int r = 0; r < 4; r++) {
        store(v + to + (4 * r + 0) * spot, c[0][r] - c[2][r]);
        store(v + to + (4 * r + 1) * spot, c[1][r] + c[2][r]);
        store(v + to + (4 * r + 2) * spot, c[2][r] - c[1][r]);
        store(v + to + (4 * r + 3) * spot, c[1][r] - c[3][r]);
        c[0][r] = c[2][r];
        c[1][r] = c[3][r];
      }
    }
  }
}

#if defined(__AVX512BF16__)
/* A column of four pixels: the even channels of a group, then the odd ones, as they lie in pairs. */
INLINE void load_column(const uint16_t *const row[4], int64_t at, const __mmask32 mask[4], int inside, vf d[4][2]) {
  for (int r = 0; r < 4; r++) {
    const __m512i both = _mm512_maskz_loadu_epi16(inside ? mask[r] : 0, row[r] + at);
    d[r][0] = (vf)_mm512_slli_epi32(both, 16);
    d[r][1] = (vf)_mm512_and_si512(both, _mm512_set1_epi32((int)0xffff0000));
  }
}

INLINE void put_pair(uint16_t *p, vf low, vf high) {
  const __m512bh both = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
  memcpy(p, &both, sizeof both);
}

/* As enter_tiles. Within a group the even channels come first: the matrices' rows lie in the same order. */
static void enter_tiles_half(const hsf_conv *p, const hsf_images *at, const uint16_t *const row[4], int64_t first,
                             int tiles, uint16_t *v, int64_t spot, int depth) {
  for (int ch = 0; ch < depth; ch += GROUP) {
    const __mmask32 most = p->inputs - ch < GROUP ? ((__mmask32)1 << (p->inputs - ch)) - 1 : ~(__mmask32)0;
    __mmask32 mask[4];
    for (int r = 0; r < 4; r++) mask[r] = row[r] ? most : 0;
    vf old[2][4][2]; /* the two left columns, transformed: column, row, even or odd */
    for (int x = 0; x < 2; x++) {
      vf d[4][2];
      const int64_t col = 2 * first - 1 + x;
      load_column(row, col * p->inputs + ch, mask, col >= 0 && col < at->cols, d);
      for (int k = 0; k < 2; k++) {
        old[x][0][k] = d[0][k] - d[2][k];
        old[x][1][k] = d[1][k] + d[2][k];
        old[x][2][k] = d[2][k] - d[1][k];
        old[x][3][k] = d[1][k] - d[3][k];
      }
    }
    for (int t = 0; t < tiles; t++) {
      vf d[2][4][2];
      for (int x = 0; x < 2; x++) {
        const int64_t col = 2 * (first + t) + 1 + x;
        load_column(row, col * p->inputs + ch, mask, col < at->cols, d[x]);
      }
      uint16_t *to = v + (int64_t)t * depth + ch;
      for (int r = 0; r < 4; r++) {
        vf c[4][2];
        for (int k = 0; k < 2; k++) {
          for (int x = 0; x < 2; x++) {
            c[x][k] = old[x][r][k];
            c[2 + x][k] = r == 0   ? d[x][0][k] - d[x][2][k]
                          : r == 1 ? d[x][1][k] + d[x][2][k]
                          : r == 2 ? d[x][2][k] - d[x][1][k]
                                   : d[x][1][k] - d[x][3][k];
            old[x][r][k] = c[2 + x][k];
          }
        }
        put_pair(to + (4 * r + 0) * spot, c[0][0] - c[2][0], c[0][1] - c[2][1]);
        put_pair(to + (4 * r + 1) * spot, c[1][0] + c[2][0], c[1][1] + c[2][1]);
        put_pair(to + (4 * r + 2) * spot, c[2][0] - c[1][0], c[2][1] - c[1][1]);
        put_pair(to + (4 * r + 3) * spot, c[1][0] - c[3][0], c[1][1] - c[3][1]);
      }
    }
  }
}
#endif

/* Transform products back, finish and store the pixels of one tile that lie inside the image. */
INLINE void leave_tile(const hsf_conv *p, const hsf_images *at, const float *m, int64_t spot, int64_t pixel, int rows,
                       int cols, int half) {
  for (int ch = 0; ch < p->outputs; ch += LANES) {
    vf s[2][4];
    for (int x = 0; x < 4; x++) {
      const vf a = load(m + x * spot + ch), b = load(m + (4 + x) * spot + ch), c = load(m + (8 + x) * spot + ch),
               d = load(m + (12 + x) * spot + ch);
      s[0][x] = a + b + c;
      s[1][x] = b - c - d;
    }
    const vf bias = p->bias ? load(p->bias + ch) : (vf){0};
    for (int y = 0; y < 2; y++) {
      vf value[2] = {s[y][0] + s[y][1] + s[y][2], s[y][1] - s[y][2] - s[y][3]};
      for (int x = 0; x < 2; x++) {
        if (y >= rows || x >= cols) continue;
        const int64_t i = (pixel + y * at->cols + x) * p->outputs + ch;
        vf done = value[x] + bias;
        if (at->other) done += get(at->other, i, half);
        if (p->silu) done *= sigmoid(done, half);
        put(at->out, i, half, done);
      }
    }
  }
}

/* Transform a run of tiles, some in each row of tiles that it meets. */
INLINE void enter_run(const hsf_conv *p, const hsf_images *at, int64_t tile, int count, void *v, int64_t spot,
                      int depth, int half) {
  const int64_t high = (at->rows + 1) / 2, wide = (at->cols + 1) / 2, size = half ? 2 : 4;
  for (int t = 0; t < count;) {
    const int64_t line = (tile + t) / wide, col = (tile + t) % wide, image = line / high, top = line % high * 2;
    const int some = count - t < wide - col ? count - t : (int)(wide - col);
    const void *row[4];
    for (int r = 0; r < 4; r++) {
      const int64_t y = top - 1 + r;
      const int64_t start = (image * at->rows + y) * at->cols * p->inputs;
      row[r] = y < 0 || y >= at->rows ? 0 : (const char *)at->in + start * size;
    }
    void *to = (char *)v + (int64_t)t * depth * size;
#if defined(__AVX512BF16__)
    if (half)
      enter_tiles_half(p, at, (const uint16_t *const *)row, col, some, to, spot, depth);
    else
#endif
      enter_tiles(p, at, (const float *const *)row, col, some, to, spot, depth);
    t += some;
  }
}

INLINE int32_t convolve_tiles(const hsf_conv *p, const hsf_images *at, int64_t first, int64_t last, int half) {
  const int64_t high = (at->rows + 1) / 2, wide = (at->cols + 1) / 2, size = half ? 2 : 4;
  const int depth = hsf_conv_depth(p->inputs, half);
  /* One line more than needed: with distances near powers of two the 16 spots of a tile would share a few lines of
   * the first-level cache. */
  const int64_t spot = (int64_t)RUN * depth + ALIGNMENT / size, done = (int64_t)RUN * p->outputs + LANES;
  void *memory;
  if (posix_memalign(&memory, ALIGNMENT, SPOTS * (spot * size + done * sizeof(float)))) return 1;
  float *m = memory;
  char *v = (char *)(m + SPOTS * done);
  for (int64_t tile = first; tile < last; tile += RUN) {
    const int count = last - tile < RUN ? (int)(last - tile) : RUN;
    enter_run(p, at, tile, count, v, spot, depth, half);
    for (int i = 0; i < SPOTS; i++) {
      const char *from = v + i * spot * size, *matrix = (const char *)p->weight + i * depth * p->outputs * size;
      float *to = m + i * done;
#if defined(__AVX512BF16__)
      if (half)
        product_half((const uint16_t *)from, depth, (const uint16_t *)matrix, depth, p->outputs, to, p->outputs, count);
      else
#endif
        product((const float *)from, depth, (const float *)matrix, depth, p->outputs, to, p->outputs, count);
    }
    for (int t = 0; t < count; t++) {
      const int64_t line = (tile + t) / wide, col = (tile + t) % wide * 2, image = line / high, top = line % high * 2;
      const int64_t pixel = (image * at->rows + top) * at->cols + col;
      leave_tile(p, at, m + (int64_t)t * p->outputs, done, pixel, top + 1 < at->rows ? 2 : 1,
                 col + 1 < at->cols ? 2 : 1, half);
    }
  }
  free(memory);
  return 0;
}

/* Convolve the given tiles, counted along rows of tiles. Returns 0, or 1 when there is no memory. */
int32_t hsf_convolve(const hsf_conv *p, const hsf_images *at, int64_t first, int64_t last) {
  return p->half ? convolve_tiles(p, at, first, last, 1) : convolve_tiles(p, at, first, last, 0);
}
