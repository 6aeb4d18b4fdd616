/* 3x3 convolution of images whose channels lie side by side, zero outside, by Winograd's F(4x4, 3x3).
 *
 * A tile of 6 x 6 input pixels yields 4 x 4 output pixels by 36 products instead of 144: both sides are transformed,
 * and each of the 36 transformed values has a matrix product over the channels of its own. Tiles are worked off in
 * runs that stay in the second-level cache. Bias, an image to add and SiLU come with the last pass.
 *
 * The points of interpolation are 0, +-NEAR, +-FAR and infinity. Those of the textbooks (1 and 2) would double the
 * error in bfloat16.
 *
 * A. Lavin, S. Gray, Fast algorithms for convolutional neural networks, CVPR 2016.
 */

#define STEP 4   /* output pixels of a tile, along each side */
#define WINDOW 6 /* input pixels */
#define SPOTS (WINDOW * WINDOW)
#define RUN 24   /* tiles of a run */
#define GROUP 32 /* channels that are transformed together in bfloat16 */
#define RING 8   /* columns that are kept, a power of two */
_Static_assert(RUN % SUMS == 0, "a product may write so many rows");

#define NEAR (2.0f / 3.0f)
#define FAR (4.0f / 3.0f)
#define NEAR2 (NEAR * NEAR)
#define FAR2 (FAR * FAR)

/* Mirrored by a ctypes.Structure. */
typedef struct {
  int32_t inputs, outputs; /* channels; outputs is a multiple of LANES */
  int32_t half, silu;      /* float32 or bfloat16; whether SiLU follows */
  const void *weight;      /* 36 packed matrices, depth as hsf_conv_depth says */
  const float *bias;       /* or null */
} hsf_conv;

/* Images, one after the other. */
typedef struct {
  int64_t rows, cols;
  const void *in, *other; /* other: to add before SiLU, of the output's shape, or null */
  void *out;
} hsf_images;

/* Side of a tile in output pixels. */
int32_t hsf_conv_step(void) { return STEP; }

/* Tiles that are worked off together. */
int32_t hsf_conv_run(void) { return RUN; }

/* Channels as the transformed input has them. */
int32_t hsf_conv_depth(int32_t inputs, int32_t half) { return round_up(inputs, half ? GROUP : LANES); }

/* The transform of the weights, (WINDOW x 3): values at the points over the product of distances to the others. */
void hsf_conv_points(float *to) {
  const float points[WINDOW - 1] = {0.0f, NEAR, -NEAR, FAR, -FAR};
  for (int i = 0; i < WINDOW - 1; i++) {
    float distances = 1.0f;
    for (int j = 0; j < WINDOW - 1; j++)
      if (j != i) distances *= points[i] - points[j];
    for (int k = 0; k < 3; k++) to[3 * i + k] = (k == 0 ? 1.0f : k == 1 ? points[i] : points[i] * points[i]) / distances;
  }
  to[3 * (WINDOW - 1)] = to[3 * (WINDOW - 1) + 1] = 0.0f;
  to[3 * (WINDOW - 1) + 2] = 1.0f;
}

/* Vectors of a group of channels. */
INLINE int vectors(int half) { return half ? 2 : 1; }

/* Some channels of a pixel, zero beyond `count`. In bfloat16 the even ones, then the odd ones, as they lie in pairs. */
INLINE void load_group(const void *row, int64_t at, int count, int half, vf to[2]) {
#if defined(__AVX512BF16__)
  if (half) {
    const __mmask32 mask = count < GROUP ? ((__mmask32)1 << count) - 1 : ~(__mmask32)0;
    const __m512i both = _mm512_maskz_loadu_epi16(mask, (const uint16_t *)row + at);
    to[0] = (vf)_mm512_slli_epi32(both, 16);
    to[1] = (vf)_mm512_and_si512(both, _mm512_set1_epi32((int)0xffff0000));
    return;
  }
#else
  (void)half;
#endif
  const float *p = (const float *)row + at;
#if defined(__AVX512F__)
  to[0] = (vf)_mm512_maskz_loadu_ps(count < LANES ? (__mmask16)((1 << count) - 1) : 0xffff, p);
#else
  if (count >= LANES) {
    to[0] = load(p);
    return;
  }
  float values[LANES] = {0};
  memcpy(values, p, count * sizeof *values);
  to[0] = load(values);
#endif
}

/* Store a group as load_group has split it: the matrices' rows lie in the same order. */
INLINE void put_group(void *p, int64_t at, const vf x[2], int half) {
#if defined(__AVX512BF16__)
  if (half) {
    const __m512bh both = _mm512_cvtne2ps_pbh((__m512)x[1], (__m512)x[0]);
    memcpy((uint16_t *)p + at, &both, sizeof both);
    return;
  }
#else
  (void)half;
#endif
  store((float *)p + at, x[0]);
}

INLINE void spread(const vf d[WINDOW], vf to[WINDOW]) {
  const vf even_far = d[4] - FAR2 * d[2], odd_far = NEAR * (d[3] - FAR2 * d[1]);
  const vf even_near = d[4] - NEAR2 * d[2], odd_near = FAR * (d[3] - NEAR2 * d[1]);
  to[0] = d[4] - (NEAR2 + FAR2) * d[2] + NEAR2 * FAR2 * d[0];
  to[1] = even_far + odd_far;
  to[2] = even_far - odd_far;
  to[3] = even_near + odd_near;
  to[4] = even_near - odd_near;
  to[5] = d[5] - (NEAR2 + FAR2) * d[3] + NEAR2 * FAR2 * d[1];
}

INLINE void gather_back(const vf m[WINDOW], vf to[STEP]) {
  const vf even_near = m[1] + m[2], odd_near = m[1] - m[2], even_far = m[3] + m[4], odd_far = m[3] - m[4];
  to[0] = m[0] + even_near + even_far;
  to[1] = NEAR * odd_near + FAR * odd_far;
  to[2] = NEAR2 * even_near + FAR2 * even_far;
  to[3] = NEAR * NEAR2 * odd_near + FAR * FAR2 * odd_far + m[5];
}

/* Transform `tiles` tiles of one row of tiles: v[spot][tile][channel], `spot` values apart. */
INLINE void enter_tiles(const hsf_conv *p, const hsf_images *at, const void *const row[WINDOW], int64_t first,
                        int tiles, void *v, int64_t spot, int depth, int half) {
  const int vecs = vectors(half);
  vf ring[RING][WINDOW][2]; /* transformed columns */
  for (int ch = 0; ch < depth; ch += vecs * LANES) {
    const int count = p->inputs - ch;
    int64_t known = 0;
    for (int t = 0; t < tiles; t++) {
      for (; known < STEP * t + WINDOW; known++) {
        const int64_t col = STEP * first - 1 + known;
        vf d[2][WINDOW], to[2][WINDOW];
        for (int r = 0; r < WINDOW; r++) {
          vf one[2] = {(vf){0}, (vf){0}};
          if (row[r] && col >= 0 && col < at->cols) load_group(row[r], col * p->inputs + ch, count, half, one);
          for (int k = 0; k < vecs; k++) d[k][r] = one[k];
        }
        for (int k = 0; k < vecs; k++) {
          spread(d[k], to[k]);
          for (int r = 0; r < WINDOW; r++) ring[known % RING][r][k] = to[k][r];
        }
      }
      for (int r = 0; r < WINDOW; r++) {
        vf d[2][WINDOW], to[2][WINDOW];
        for (int k = 0; k < vecs; k++) {
          for (int x = 0; x < WINDOW; x++) d[k][x] = ring[(STEP * t + x) % RING][r][k];
          spread(d[k], to[k]);
        }
        for (int x = 0; x < WINDOW; x++) {
          const vf both[2] = {to[0][x], to[vecs - 1][x]};
          put_group(v, (r * WINDOW + x) * spot + (int64_t)t * depth + ch, both, half);
        }
      }
    }
  }
}

/* Transform products back, finish and store the pixels of one tile that lie inside the image. */
INLINE void leave_tile(const hsf_conv *p, const hsf_images *at, const float *m, int64_t spot, int64_t pixel, int rows,
                       int cols, int half) {
  for (int ch = 0; ch < p->outputs; ch += LANES) {
    vf s[WINDOW][STEP];
    for (int x = 0; x < WINDOW; x++) {
      vf column[WINDOW];
      for (int r = 0; r < WINDOW; r++) column[r] = load(m + (r * WINDOW + x) * spot + ch);
      gather_back(column, s[x]);
    }
    const vf bias = p->bias ? load(p->bias + ch) : (vf){0};
    for (int y = 0; y < rows; y++) {
      vf line[WINDOW], done[STEP];
      for (int x = 0; x < WINDOW; x++) line[x] = s[x][y];
      gather_back(line, done);
      for (int x = 0; x < cols; x++) {
        const int64_t i = (pixel + y * at->cols + x) * p->outputs + ch;
        vf value = done[x] + bias;
        if (at->other) value += get(at->other, i, half);
        if (p->silu) value *= sigmoid(value, half);
        put(at->out, i, half, value);
      }
    }
  }
}

/* Transform a run of tiles, some in each row of tiles that it meets. */
INLINE void enter_run(const hsf_conv *p, const hsf_images *at, int64_t tile, int count, void *v, int64_t spot,
                      int depth, int half) {
  const int64_t high = (at->rows + STEP - 1) / STEP, wide = (at->cols + STEP - 1) / STEP, size = half ? 2 : 4;
  for (int t = 0; t < count;) {
    const int64_t line = (tile + t) / wide, col = (tile + t) % wide, image = line / high, top = line % high * STEP;
    const int some = count - t < wide - col ? count - t : (int)(wide - col);
    const void *row[WINDOW];
    for (int r = 0; r < WINDOW; r++) {
      const int64_t y = top - 1 + r, start = (image * at->rows + y) * at->cols * p->inputs;
      row[r] = y < 0 || y >= at->rows ? 0 : (const char *)at->in + start * size;
    }
    enter_tiles(p, at, row, col, some, (char *)v + (int64_t)t * depth * size, spot, depth, half);
    t += some;
  }
}

INLINE int32_t convolve_tiles(const hsf_conv *p, const hsf_images *at, int64_t first, int64_t last, int half) {
  const int64_t high = (at->rows + STEP - 1) / STEP, wide = (at->cols + STEP - 1) / STEP, size = half ? 2 : 4;
  const int depth = hsf_conv_depth(p->inputs, half);
  /* One line more than needed: with distances near powers of two the spots of a tile would share a few lines of the
   * first-level cache. */
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
#if HALF_PRODUCT
      if (half)
        product_half((const uint16_t *)from, depth, (const uint16_t *)matrix, depth, p->outputs, to, p->outputs, count);
      else
#endif
        product((const float *)from, depth, (const float *)matrix, depth, p->outputs, to, p->outputs, count);
    }
    for (int t = 0; t < count; t++) {
      const int64_t line = (tile + t) / wide, col = (tile + t) % wide * STEP, top = line % high * STEP;
      const int64_t pixel = (line / high * at->rows + top) * at->cols + col;
      const int rows = at->rows - top < STEP ? (int)(at->rows - top) : STEP;
      const int cols = at->cols - col < STEP ? (int)(at->cols - col) : STEP;
      const float *from = m + (int64_t)t * p->outputs;
      if (rows == STEP && cols == STEP)
        leave_tile(p, at, from, done, pixel, STEP, STEP, half);
      else
        leave_tile(p, at, from, done, pixel, rows, cols, half);
    }
  }
  free(memory);
  return 0;
}

/* Convolve the given tiles, counted along rows of tiles. Returns 0, or 1 when there is no memory. */
int32_t hsf_convolve(const hsf_conv *p, const hsf_images *at, int64_t first, int64_t last) {
  return p->half ? convolve_tiles(p, at, first, last, 1) : convolve_tiles(p, at, first, last, 0);
}
