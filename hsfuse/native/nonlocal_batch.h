/* Groups of patches that are filtered side by side, one in each lane of a vector: their matrices are too small to fill
 * vectors by themselves. For nonlocal.c, where the entries of a patch are no more than the patches of a group.
 *
 * `patches` and `guide` hold a vector for each of `n` patches and `values` entries; `factor` the lower triangle of a
 * matrix of entries, row after row. */
typedef struct {
  lanes *patches, *guide, *factor;
  float *rows;
  int64_t *at, filled, n, values;
} batch;

#define TILE 4 /* rows and columns of a product that stay in registers */
#define COLUMNS 4
#define MOST_BATCHED 48 /* entries of a patch: more do not stay in the cache */

static inline int64_t triangle(int64_t row) { return row * (row + 1) / 2; }

/* Four rows of four as columns. */
static inline void turn_rows(const float *const from[4], float *to, int64_t stride) {
  const quad a = *(const quad *)from[0], b = *(const quad *)from[1], c = *(const quad *)from[2],
             d = *(const quad *)from[3];
  const quad p = __builtin_shuffle(a, b, (order){0, 4, 1, 5}), q = __builtin_shuffle(c, d, (order){0, 4, 1, 5}),
             r = __builtin_shuffle(a, b, (order){2, 6, 3, 7}), s = __builtin_shuffle(c, d, (order){2, 6, 3, 7});
  *(quad *)to = __builtin_shuffle(p, q, (order){0, 1, 4, 5});
  *(quad *)(to + stride) = __builtin_shuffle(p, q, (order){2, 3, 6, 7});
  *(quad *)(to + 2 * stride) = __builtin_shuffle(r, s, (order){0, 1, 4, 5});
  *(quad *)(to + 3 * stride) = __builtin_shuffle(r, s, (order){2, 3, 6, 7});
}

/* The groups' patches of an image, one group in each lane. */
static void gather_batch(const batch *g, const float *image, int64_t cols, int64_t bands, lanes *to) {
  const int64_t run = SIDE * bands, n = g->n;
  for (int64_t i = 0; i < n; i++)
    for (int64_t d = 0; d < SIDE; d++) {
      float *place = (float *)(to + i * g->values + d * run);
      for (int64_t lane = 0; lane < LANES; lane += 4) {
        const float *from[4];
        for (int k = 0; k < 4; k++) from[k] = image + (g->at[(lane + k) * n + i] + d * cols) * bands;
        int64_t v = 0;
        for (; v + 4 <= run; v += 4) {
          const float *const here[4] = {from[0] + v, from[1] + v, from[2] + v, from[3] + v};
          turn_rows(here, place + v * LANES + lane, LANES);
        }
        for (; v < run; v++)
          for (int k = 0; k < 4; k++) place[v * LANES + lane + k] = from[k][v];
      }
    }
}

/* The patches of each group as rows of `values` floats. */
static void part_batch(const batch *g) {
  const int64_t n = g->n, values = g->values, whole = values / 4 * 4;
  for (int64_t i = 0; i < n; i++) {
    const float *from = (const float *)(g->patches + i * values);
    for (int64_t lane = 0; lane < LANES; lane += 4) {
      float *to = g->rows + (lane * n + i) * values;
      for (int64_t v = 0; v < whole; v += 4) {
        const float *const here[4] = {from + v * LANES + lane, from + (v + 1) * LANES + lane,
                                      from + (v + 2) * LANES + lane, from + (v + 3) * LANES + lane};
        turn_rows(here, to + v, n * values);
      }
      for (int64_t v = whole; v < values; v++)
        for (int k = 0; k < 4; k++) to[k * n * values + v] = from[v * LANES + lane + k];
    }
  }
}

/* Means of the entries over the patches. */
static void mean_of_batch(const lanes *x, int64_t n, int64_t values, lanes *mean) {
  for (int64_t v = 0; v < values; v++) mean[v] = (lanes){0};
  for (int64_t i = 0; i < n; i++)
    for (int64_t v = 0; v < values; v++) mean[v] += x[i * values + v];
  for (int64_t v = 0; v < values; v++) mean[v] *= 1.0f / (float)n;
}

static void centre_batch(lanes *x, int64_t n, int64_t values, const lanes *mean, float times) {
  for (int64_t i = 0; i < n; i++)
    for (int64_t v = 0; v < values; v++) x[i * values + v] += times * mean[v];
}

/* Sums over the patches of products of their entries, with `loading` on the diagonal. */
static void products_of_batch(const lanes *x, int64_t n, int64_t values, float loading, lanes *out) {
  for (int64_t r = 0; r < values; r += TILE)
    for (int64_t c = 0; c <= r; c += TILE) {
      lanes sums[TILE][TILE] = {{{0}}};
      const int64_t high = least(TILE, values - r), wide = least(TILE, values - c);
      if (high == TILE && wide == TILE)
        for (int64_t i = 0; i < n; i++) {
          const lanes *a = x + i * values + r, *b = x + i * values + c;
          for (int p = 0; p < TILE; p++)
            for (int q = 0; q < TILE; q++) sums[p][q] += a[p] * b[q];
        }
      else
        for (int64_t i = 0; i < n; i++)
          for (int64_t p = 0; p < high; p++)
            for (int64_t q = 0; q < wide; q++) sums[p][q] += x[i * values + r + p] * x[i * values + c + q];
      for (int64_t p = 0; p < high; p++)
        for (int64_t q = 0; q < wide && c + q <= r + p; q++)
          out[triangle(r + p) + c + q] = sums[p][q] + (r + p == c + q ? loading : 0.0f);
    }
}

/* Cholesky factors in place, reciprocals on the diagonal; see `factor`. Lanes of `good` become 0 where it means
 * nothing. */
static void factor_batch(lanes *a, int64_t n, float loading, order_of_lanes *good) {
  for (int64_t k = 0; k < n; k++) {
    const lanes *own = a + triangle(k);
    lanes pivot = own[k];
    for (int64_t m = 0; m < k; m++) pivot -= own[m] * own[m];
    *good &= pivot > 0.5f * loading;
    lanes scale;
    for (int l = 0; l < LANES; l++) scale[l] = 1.0f / sqrtf(pivot[l]);
    a[triangle(k) + k] = scale;
    for (int64_t i = k + 1; i < n; i += TILE) {
      const int64_t count = least(TILE, n - i);
      lanes *below[TILE], left[TILE];
      for (int t = 0; t < TILE; t++) below[t] = a + triangle(t < count ? i + t : i), left[t] = below[t][k];
      for (int64_t m = 0; m < k; m++)
        for (int t = 0; t < TILE; t++) left[t] -= below[t][m] * own[m];
      for (int64_t t = 0; t < count; t++) below[t][k] = left[t] * scale;
    }
  }
}

/* Solve with the factors for COLUMNS right-hand sides, x (n, COLUMNS), in place; TILE rows at a time. */
static void solve_batch(const lanes *a, int64_t n, lanes *x) {
  for (int64_t i = 0; i < n; i += TILE) {
    const int64_t count = least(TILE, n - i);
    lanes s[TILE][COLUMNS];
    const lanes *row[TILE];
    for (int t = 0; t < TILE; t++) {
      row[t] = a + triangle(t < count ? i + t : i);
      for (int c = 0; c < COLUMNS; c++) s[t][c] = x[(t < count ? i + t : i) * COLUMNS + c];
    }
    for (int64_t k = 0; k < i; k++)
      for (int t = 0; t < TILE; t++)
        for (int c = 0; c < COLUMNS; c++) s[t][c] -= row[t][k] * x[k * COLUMNS + c];
    for (int64_t t = 0; t < count; t++)
      for (int c = 0; c < COLUMNS; c++) {
        lanes left = s[t][c];
        for (int64_t m = 0; m < t; m++) left -= row[t][i + m] * x[(i + m) * COLUMNS + c];
        x[(i + t) * COLUMNS + c] = left * row[t][i + t];
      }
  }
  for (int64_t i = (n - 1) / TILE * TILE; i >= 0; i -= TILE) {
    const int64_t count = least(TILE, n - i);
    lanes s[TILE][COLUMNS];
    for (int t = 0; t < TILE; t++)
      for (int c = 0; c < COLUMNS; c++) s[t][c] = x[(t < count ? i + t : i) * COLUMNS + c];
    for (int64_t k = i + count; k < n; k++) {
      const lanes *row = a + triangle(k) + i;
      for (int t = 0; t < TILE; t++)
        for (int c = 0; c < COLUMNS; c++) s[t][c] -= row[t] * x[k * COLUMNS + c];
    }
    for (int64_t t = count - 1; t >= 0; t--)
      for (int c = 0; c < COLUMNS; c++) {
        lanes left = s[t][c];
        for (int64_t m = t + 1; m < count; m++) left -= a[triangle(i + m) + i + t] * x[(i + m) * COLUMNS + c];
        x[(i + t) * COLUMNS + c] = left * a[triangle(i + t) + i + t];
      }
  }
}

/* Take from the patches `weight` times what solving with the factors makes of them, so many times; lanes that are not
 * `good` stay. */
static void take_solved_batch(const batch *g, float weight, int times, order_of_lanes good) {
  const int64_t n = g->n, values = g->values;
  lanes x[MOST_BATCHED * COLUMNS], solved[MOST_BATCHED * COLUMNS];
  for (int64_t i = 0; i < n; i += COLUMNS) {
    const int64_t count = least(COLUMNS, n - i);
    for (int64_t v = 0; v < values; v++)
      for (int c = 0; c < COLUMNS; c++) x[v * COLUMNS + c] = g->patches[(c < count ? i + c : i) * values + v];
    for (int pass = 0; pass < times; pass++) {
      memcpy(solved, x, values * COLUMNS * sizeof(lanes));
      solve_batch(g->factor, values, solved);
      for (int64_t v = 0; v < values * COLUMNS; v++) x[v] -= weight * solved[v];
    }
    for (int64_t c = 0; c < count; c++)
      for (int64_t v = 0; v < values; v++) {
        lanes *to = g->patches + (i + c) * values + v;
        *to = (lanes)(((order_of_lanes)x[v * COLUMNS + c] & good) | ((order_of_lanes)*to & ~good));
      }
  }
}

/* Filter the groups that were gathered and give them back as rows; `basic` as for hsf_nonlocal. */
static void filter_batch(batch *g, const float *image, const float *basic, int64_t cols, int64_t bands,
                         float shrink) {
  const int64_t n = g->n, values = g->values;
  lanes mean[MOST_BATCHED];
  // Lanes without a group do what the first does.
  for (int64_t lane = g->filled; lane < LANES; lane++) memcpy(g->at + lane * n, g->at, n * sizeof(int64_t));
  gather_batch(g, image, cols, bands, g->patches);
  const lanes *structure = g->patches;
  if (basic) {
    gather_batch(g, basic, cols, bands, g->guide);
    mean_of_batch(g->guide, n, values, mean);
    centre_batch(g->guide, n, values, mean, -1.0f);
    structure = g->guide;
  } else {
    mean_of_batch(g->patches, n, values, mean);
  }
  centre_batch(g->patches, n, values, mean, -1.0f);
  const float weight = (basic ? 1.0f : shrink) * (float)(n - 1);
  order_of_lanes good = (order_of_lanes){0} - 1;
  products_of_batch(structure, n, values, weight, g->factor);
  factor_batch(g->factor, values, weight, &good);
  take_solved_batch(g, weight, basic ? 1 : 2, good);
  centre_batch(g->patches, n, values, mean, 1.0f);
  part_batch(g);
}
