/* The middle of a Mamba-2 block, forward and backward, for training: from the projected input (z, x, B, C, dt) to
 * the gated and normalised output. The two projections around it are matrix products that PyTorch does well.
 *
 * The backward pass keeps nothing from the forward pass but its input. It walks a sequence once to find the state at
 * the start of every block of tokens, then goes back block by block and recomputes what it needs in the cache.
 */

#include "mamba2.c"
#include "elementwise.c"

#define BACK_STEPS 2

/* Gradients of the parameters, accumulated over the sequences of one call; sizes as in hsf_block. */
typedef struct {
  float *conv_weight, *conv_bias, *dt_bias, *decay, *skip, *rms_weight;
} hsf_gradients;

typedef struct {
  int heads, channels, columns;
  float *raw;    /* (TOKENS + TAPS - 1) x channels: x, B, C before the convolution */
  float *mixed;  /* TOKENS x channels: after it */
  float *step, *fade, *dstep; /* TOKENS x head */
  float *y;      /* length x inner (forward: TOKENS): scan output, then its gradient */
  float *state;  /* state x inner */
  float *starts; /* block x state x inner: state before each block */
  float *path;   /* (TOKENS + 1) x state x 2 LANES: states of one piece over a block */
  float *grad;   /* state x inner: gradient of the state */
  float *sum_b, *sum_c; /* TOKENS x state x LANES: partial sums of the gradients of B and C */
  float *dmixed; /* TOKENS x channels */
  float *dpre;   /* (TOKENS + TAPS - 1) x channels; the last rows belong to the following block */
} core_space;

/* The sums of `count` vectors, a multiple of 8: eight at a time, so that the additions overlap. */
static void sum_rows(const float *rows, int count, float *sums) {
  for (int n = 0; n < count; n += 8) {
    float total[8] = {0};
    for (int lane = 0; lane < LANES; lane++)
      for (int i = 0; i < 8; i++) total[i] += rows[(n + i) * LANES + lane];
    memcpy(sums + n, total, sizeof total);
  }
}

/* Copy a block's x, B, C with the rows before it; zero before the sequence and beyond its end. */
static void gather(const hsf_block *p, const core_space *w, const float *proj, int64_t t, int count) {
  for (int i = 0; i < TOKENS + TAPS - 1; i++) {
    int64_t from = t + i - (TAPS - 1);
    float *row = w->raw + (int64_t)i * w->channels;
    if (from < 0 || i >= count + TAPS - 1)
      memset(row, 0, sizeof(float) * w->channels);
    else
      memcpy(row, proj + from * w->columns + p->inner, sizeof(float) * w->channels);
  }
}

/* Convolution before its activation, one row. */
INLINE vf convolved(const hsf_block *p, const core_space *w, int t, int i) {
  vf value = load(p->conv_bias + i);
  for (int k = 0; k < TAPS; k++)
    value += load(w->raw + (int64_t)(t + k) * w->channels + i) * load(p->conv_weight + k * w->channels + i);
  return value;
}

/* Fill mixed, step and fade of one block; nothing happens beyond the sequence's end. */
static void prepare(const hsf_block *p, const core_space *w, const float *proj, int64_t t, int count) {
  const int heads = w->heads;
  gather(p, w, proj, t, count);
  for (int s = 0; s < TOKENS; s++)
    for (int i = 0; i < w->channels; i += LANES)
      store(w->mixed + (int64_t)s * w->channels + i, s < count ? silu(convolved(p, w, s, i)) : (vf){0});
  for (int s = 0; s < TOKENS; s++)
    for (int h = 0; h < heads; h++)
      w->step[s * heads + h] =
          s < count ? proj[(t + s) * w->columns + p->inner + w->channels + h] + p->dt_bias[h] : 0.0f;
  for (int i = 0; i < TOKENS * heads; i += LANES) store(w->step + i, softplus(load(w->step + i)));
  memset(w->step + count * heads, 0, sizeof(float) * (TOKENS - count) * heads);
  for (int s = 0; s < TOKENS; s++)
    for (int h = 0; h < heads; h++) w->fade[s * heads + h] = w->step[s * heads + h] * p->decay[h];
  for (int i = 0; i < TOKENS * heads; i += LANES) store(w->fade + i, vexp(load(w->fade + i)));
}

/* Scan one prepared block; y has TOKENS rows. */
static void scan_block(const hsf_block *p, const core_space *w, float *y) {
  const float *b = w->mixed + p->inner, *c = b + p->state;
  const int vecs = p->headdim % (2 * LANES) == 0 ? 2 : 1;
  for (int first = 0; first < p->inner; first += vecs * LANES) {
    int h = first / p->headdim;
    if (vecs == 2)
      scan_piece(w->state + first, p->inner, p->state, w->mixed + first, w->channels, b, c, w->channels, w->step + h,
                 w->fade + h, w->heads, p->skip[h], y + first, p->inner, TOKENS, 2);
    else
      scan_piece(w->state + first, p->inner, p->state, w->mixed + first, w->channels, b, c, w->channels, w->step + h,
                 w->fade + h, w->heads, p->skip[h], y + first, p->inner, TOKENS, 1);
  }
}

/* Gate and normalise backwards, one token: y holds the scan's output and becomes its gradient. */
static void gate_back(const hsf_block *p, const float *z, const float *dout, float *y, float *dz, float *drms) {
  const int inner = p->inner;
  vf squares = (vf){0}, dots = (vf){0};
  for (int i = 0; i < inner; i += LANES) {
    vf value = load(y + i) * silu(load(z + i));
    squares += value * value;
    dots += load(dout + i) * load(p->rms_weight + i) * value;
  }
  const float scale = 1.0f / __builtin_sqrtf(sum(squares) / inner + p->rms_eps);
  const float pull = sum(dots) * scale * scale * scale / inner;
  for (int i = 0; i < inner; i += LANES) {
    vf in = load(z + i), s = 1.0f / (1.0f + vexp(-in)), gated = in * s, out = load(y + i), value = out * gated;
    vf d = load(dout + i);
    store(drms + i, load(drms + i) + d * value * scale);
    vf dvalue = d * load(p->rms_weight + i) * scale - value * pull;
    store(dz + i, dvalue * out * s * (1.0f + in * (1.0f - s)));
    store(y + i, dvalue * gated);
  }
}

/* The recurrence backwards for `vecs` vectors of head h's channels over one block. */
INLINE void scan_back(const hsf_block *p, const core_space *w, const hsf_gradients *g, const float *start, int first,
                      const float *dy, int vecs) {
  const int h = first / p->headdim, heads = w->heads, wide = vecs * LANES;
  const float *b = w->mixed + p->inner, *c = b + p->state;
  const float skip = p->skip[h], decay = p->decay[h];
  const int64_t frame = (int64_t)p->state * wide;
  for (int n = 0; n < p->state; n++) {
    vf state[2];
    for (int j = 0; j < vecs; j++) {
      state[j] = load(start + (int64_t)n * p->inner + first + j * LANES);
      store(w->path + n * wide + j * LANES, state[j]);
    }
    for (int t = 0; t < TOKENS; t++) {
      const float bn = b[(int64_t)t * w->channels + n] * w->step[t * heads + h], keep = w->fade[t * heads + h];
      for (int j = 0; j < vecs; j++) {
        state[j] = state[j] * keep + bn * load(w->mixed + (int64_t)t * w->channels + first + j * LANES);
        store(w->path + (t + 1) * frame + n * wide + j * LANES, state[j]);
      }
    }
  }
  for (int t = TOKENS - BACK_STEPS; t >= 0; t -= BACK_STEPS) {
    vf dout[BACK_STEPS][2], in[BACK_STEPS][2], din[BACK_STEPS][2], dfade[BACK_STEPS];
    for (int s = 0; s < BACK_STEPS; s++) {
      dfade[s] = (vf){0};
      for (int j = 0; j < vecs; j++) {
        dout[s][j] = load(dy + (int64_t)(t + s) * p->inner + first + j * LANES);
        in[s][j] = load(w->mixed + (int64_t)(t + s) * w->channels + first + j * LANES) * w->step[(t + s) * heads + h];
        din[s][j] = (vf){0};
      }
    }
    for (int n = 0; n < p->state; n++) {
      float *at = w->grad + (int64_t)n * p->inner + first;
      vf d[2];
      for (int j = 0; j < vecs; j++) d[j] = load(at + j * LANES);
      for (int s = BACK_STEPS - 1; s >= 0; s--) {
        const float *after = w->path + (t + s + 1) * frame + n * wide, *before = after - frame;
        const float bn = b[(int64_t)(t + s) * w->channels + n], cn = c[(int64_t)(t + s) * w->channels + n];
        float *to_b = w->sum_b + ((int64_t)(t + s) * p->state + n) * LANES;
        float *to_c = w->sum_c + ((int64_t)(t + s) * p->state + n) * LANES;
        vf part_b = load(to_b), part_c = load(to_c);
        for (int j = 0; j < vecs; j++) {
          d[j] += cn * dout[s][j];
          part_c += dout[s][j] * load(after + j * LANES);
          part_b += d[j] * in[s][j];
          din[s][j] += bn * d[j];
          dfade[s] += d[j] * load(before + j * LANES);
          d[j] *= w->fade[(t + s) * heads + h];
        }
        store(to_b, part_b);
        store(to_c, part_c);
      }
      for (int j = 0; j < vecs; j++) store(at + j * LANES, d[j]);
    }
    for (int s = 0; s < BACK_STEPS; s++) {
      const float step = w->step[(t + s) * heads + h];
      vf by_step = (vf){0}, by_skip = (vf){0};
      for (int j = 0; j < vecs; j++) {
        vf x = load(w->mixed + (int64_t)(t + s) * w->channels + first + j * LANES);
        by_step += din[s][j] * x;
        by_skip += dout[s][j] * x;
        store(w->dmixed + (int64_t)(t + s) * w->channels + first + j * LANES, din[s][j] * step + dout[s][j] * skip);
      }
      const float dlog = sum(dfade[s]) * w->fade[(t + s) * heads + h];
      w->dstep[(t + s) * heads + h] += sum(by_step) + dlog * decay;
      g->decay[h] += dlog * step;
      g->skip[h] += sum(by_skip);
    }
  }
}

/* Activation and convolution backwards for one block; writes the gradient of the projected x, B, C. */
static void convolve_back(const hsf_block *p, const core_space *w, const hsf_gradients *g, int count, float *dproj) {
  const int channels = w->channels;
  /* What the following block's first rows hand back comes after this block's own rows. */
  memmove(w->dpre + (int64_t)count * channels, w->dpre, sizeof(float) * (TAPS - 1) * channels);
  for (int i = 0; i < channels; i += LANES) {
    vf dbias = (vf){0}, dtap[TAPS];
    for (int k = 0; k < TAPS; k++) dtap[k] = (vf){0};
    for (int t = 0; t < count; t++) {
      vf pre = convolved(p, w, t, i), s = 1.0f / (1.0f + vexp(-pre));
      vf d = load(w->dmixed + (int64_t)t * channels + i) * s * (1.0f + pre * (1.0f - s));
      store(w->dpre + (int64_t)t * channels + i, d);
      dbias += d;
      for (int k = 0; k < TAPS; k++) dtap[k] += d * load(w->raw + (int64_t)(t + k) * channels + i);
    }
    store(g->conv_bias + i, load(g->conv_bias + i) + dbias);
    for (int k = 0; k < TAPS; k++)
      store(g->conv_weight + k * channels + i, load(g->conv_weight + k * channels + i) + dtap[k]);
    for (int t = 0; t < count; t++) {
      vf d = (vf){0};
      for (int k = 0; k < TAPS; k++)
        d += load(w->dpre + (int64_t)(t + TAPS - 1 - k) * channels + i) * load(p->conv_weight + k * channels + i);
      store(dproj + (int64_t)t * w->columns + p->inner + i, d);
    }
  }
}

static int allocate(const hsf_block *p, core_space *w, int64_t length, int backward, void **memory) {
  const int64_t blocks = (length + TOKENS - 1) / TOKENS, inner = p->inner, state = p->state;
  w->heads = p->inner / p->headdim;
  w->channels = p->inner + 2 * p->state;
  w->columns = p->inner + w->channels + w->heads;
  const int64_t sizes[] = {
      (int64_t)(TOKENS + TAPS) * w->channels,
      (int64_t)TOKENS * w->channels,
      (int64_t)TOKENS * w->heads + LANES,
      (int64_t)TOKENS * w->heads + LANES,
      (int64_t)TOKENS * w->heads + LANES,
      (backward ? blocks : 1) * TOKENS * inner,
      state * inner,
      backward ? blocks * state * inner : 0,
      backward ? (TOKENS + 1) * state * 2 * LANES : 0,
      backward ? state * inner : 0,
      backward ? TOKENS * state * LANES : 0,
      backward ? TOKENS * state * LANES : 0,
      backward ? (int64_t)TOKENS * w->channels : 0,
      backward ? (int64_t)(TOKENS + TAPS) * w->channels : 0,
  };
  float **const targets[] = {&w->raw,   &w->mixed, &w->step,  &w->fade,  &w->dstep, &w->y,      &w->state,
                             &w->starts, &w->path,  &w->grad,  &w->sum_b, &w->sum_c, &w->dmixed, &w->dpre};
  const int count = sizeof sizes / sizeof *sizes;
  int64_t total = 0;
  for (int i = 0; i < count; i++) total += sizes[i] * (int64_t)sizeof(float) + ALIGNMENT;
  if (posix_memalign(memory, ALIGNMENT, total)) return 1;
  char *cursor = *memory;
  for (int i = 0; i < count; i++) *targets[i] = take(&cursor, sizes[i]);
  return 0;
}

/* out (n_seq, length, inner) from proj (n_seq, length, columns), both dense. Returns 1 when there is no memory. */
int32_t hsf_core_forward(const hsf_block *p, int64_t n_seq, int64_t length, const float *proj, float *out) {
  core_space w;
  void *memory;
  if (allocate(p, &w, length, 0, &memory)) return 1;
  for (int64_t s = 0; s < n_seq; s++) {
    memset(w.state, 0, sizeof(float) * p->state * p->inner);
    for (int64_t t = 0; t < length; t += TOKENS) {
      const int count = length - t < TOKENS ? (int)(length - t) : TOKENS;
      prepare(p, &w, proj, t, count);
      scan_block(p, &w, w.y);
      gate(p, proj + t * w.columns, w.columns, w.y, 0, count, 0);
      memcpy(out + t * p->inner, w.y, sizeof(float) * count * p->inner);
    }
    proj += length * w.columns;
    out += length * p->inner;
  }
  free(memory);
  return 0;
}

/* dproj from dout; adds to the gradients of the parameters. Returns 1 when there is no memory. */
int32_t hsf_core_backward(const hsf_block *p, int64_t n_seq, int64_t length, const float *proj, const float *dout,
                          float *dproj, const hsf_gradients *g) {
  core_space w;
  void *memory;
  if (allocate(p, &w, length, 1, &memory)) return 1;
  const int64_t frame = (int64_t)p->state * p->inner, last = (length - 1) / TOKENS * TOKENS;
  const int vecs = p->headdim % (2 * LANES) == 0 ? 2 : 1;
  for (int64_t s = 0; s < n_seq; s++) {
    memset(w.state, 0, sizeof(float) * frame);
    for (int64_t t = 0; t < length; t += TOKENS) {
      prepare(p, &w, proj, t, length - t < TOKENS ? (int)(length - t) : TOKENS);
      memcpy(w.starts + t / TOKENS * frame, w.state, sizeof(float) * frame);
      scan_block(p, &w, w.y + t * p->inner);
    }
    for (int64_t t = 0; t < length; t++)
      gate_back(p, proj + t * w.columns, dout + t * p->inner, w.y + t * p->inner, dproj + t * w.columns,
                g->rms_weight);
    memset(w.y + length * p->inner, 0, sizeof(float) * (last + TOKENS - length) * p->inner);
    memset(w.grad, 0, sizeof(float) * frame);
    memset(w.dpre, 0, sizeof(float) * (TAPS - 1) * w.channels);
    for (int64_t t = last; t >= 0; t -= TOKENS) {
      const int count = length - t < TOKENS ? (int)(length - t) : TOKENS;
      prepare(p, &w, proj, t, count);
      memset(w.dstep, 0, sizeof(float) * TOKENS * w.heads);
      memset(w.sum_b, 0, sizeof(float) * TOKENS * p->state * LANES);
      memset(w.sum_c, 0, sizeof(float) * TOKENS * p->state * LANES);
      const float *start = w.starts + t / TOKENS * frame;
      for (int first = 0; first < p->inner; first += vecs * LANES) {
        if (vecs == 2)
          scan_back(p, &w, g, start, first, w.y + t * p->inner, 2);
        else
          scan_back(p, &w, g, start, first, w.y + t * p->inner, 1);
      }
      for (int i = 0; i < count; i++) {
        float *row = w.dmixed + (int64_t)i * w.channels + p->inner;
        sum_rows(w.sum_b + (int64_t)i * p->state * LANES, p->state, row);
        sum_rows(w.sum_c + (int64_t)i * p->state * LANES, p->state, row + p->state);
      }
      float *to = dproj + t * w.columns;
      convolve_back(p, &w, g, count, to);
      for (int i = 0; i < count; i++)
        for (int h = 0; h < w.heads; h++) {
          /* d softplus = sigmoid = 1 - exp(-softplus) */
          const float d = w.dstep[i * w.heads + h] * -__builtin_expm1f(-w.step[i * w.heads + h]);
          to[(int64_t)i * w.columns + p->inner + w.channels + h] = d;
          g->dt_bias[h] += d;
        }
    }
    proj += length * w.columns;
    dproj += length * w.columns;
    dout += length * p->inner;
  }
  free(memory);
  return 0;
}
