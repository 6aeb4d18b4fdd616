/* Chains of cheap operations between the layers of a network, each in one pass over memory.
 *
 * Arrays are flat: `count` values of images whose channels lie side by side, float32 or bfloat16 (half). What is
 * between is float32 and rounded once. Counts are multiples of LANES.
 */

INLINE vf get(const void *p, int64_t i, int half) {
  return half ? load_half((const uint16_t *)p + i) : load((const float *)p + i);
}

INLINE void put(void *p, int64_t i, int half, vf x) {
  if (half)
    store_half((uint16_t *)p + i, x);
  else
    store((float *)p + i, x);
}

INLINE vf inverse(vf x) {
#if defined(__AVX512F__)
  vf r = (vf)_mm512_rcp14_ps((__m512)x);
  return r + r * (1.0f - x * r);
#else
  return 1.0f / x;
#endif
}

INLINE vf sigmoid(vf x, int half) { return half ? sigmoid_rough(x) : inverse(1.0f + vexp(-x)); }

/* x <- silu(x), or silu(x + other) */
INLINE void silu_all(void *x, const void *other, int64_t count, int half) {
  for (int64_t i = 0; i < count; i += LANES) {
    vf value = get(x, i, half);
    if (other) value += get(other, i, half);
    put(x, i, half, value * sigmoid(value, half));
  }
}

int32_t hsf_silu(void *x, const void *other, int64_t count, int32_t half) {
  if (half)
    silu_all(x, other, count, 1);
  else
    silu_all(x, other, count, 0);
  return 0;
}

/* out = weight . gate(x) . x + x; rule 0: gate 1, 1: tanh(x), 2: 2 sigmoid(x) */
INLINE void gate_all(const void *x, const void *weight, void *out, int64_t count, int rule, int half) {
  for (int64_t i = 0; i < count; i += LANES) {
    vf value = get(x, i, half), part = get(weight, i, half) * value;
    if (rule == 1) /* tanh(x) = 2 sigmoid(2 x) - 1 */
      part *= 2.0f * sigmoid(2.0f * value, half) - 1.0f;
    else if (rule == 2)
      part *= 2.0f * sigmoid(value, half);
    put(out, i, half, value + part);
  }
}

int32_t hsf_gate(const void *x, const void *weight, void *out, int64_t count, int32_t rule, int32_t half) {
  if (half)
    gate_all(x, weight, out, count, rule, 1);
  else
    gate_all(x, weight, out, count, rule, 0);
  return 0;
}

/* near <- sigmoid(near) . far + near, far <- sigmoid(far) . near + far, both of the values before */
INLINE void exchange_all(void *near, void *far, int64_t count, int half) {
  for (int64_t i = 0; i < count; i += LANES) {
    vf a = get(near, i, half), b = get(far, i, half);
    put(near, i, half, a + sigmoid(a, half) * b);
    put(far, i, half, b + sigmoid(b, half) * a);
  }
}

int32_t hsf_exchange(void *near, void *far, int64_t count, int32_t half) {
  if (half)
    exchange_all(near, far, count, 1);
  else
    exchange_all(near, far, count, 0);
  return 0;
}

#define MOST_VECTORS 32

INLINE float largest(vf x) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)x);
#else
  float most = x[0];
  for (int i = 1; i < LANES; i++) most = x[i] > most ? x[i] : most;
  return most;
#endif
}

/* out = (1 - copies softmax(key . value)) . query + value, softmax over the `width` channels of each pixel */
INLINE void attend_all(const void *key, const void *value, const void *query, void *out, int64_t count, int width,
                       int copies, int half) {
  vf score[MOST_VECTORS];
  for (int64_t pixel = 0; pixel < count; pixel += width) {
    vf most = all(-3.0e38f);
    for (int i = 0; i < width; i += LANES) {
      vf s = get(key, pixel + i, half) * get(value, pixel + i, half);
      score[i / LANES] = s;
      most = pick(s > most, s, most);
    }
    const float top = largest(most);
    vf total = (vf){0};
    for (int i = 0; i < width; i += LANES) {
      vf e = vexp(score[i / LANES] - top);
      score[i / LANES] = e;
      total += e;
    }
    const float scale = (float)copies / sum(total);
    for (int i = 0; i < width; i += LANES) {
      vf q = get(query, pixel + i, half);
      put(out, pixel + i, half, q - score[i / LANES] * scale * q + get(value, pixel + i, half));
    }
  }
}

int32_t hsf_attend(const void *key, const void *value, const void *query, void *out, int64_t count, int32_t width,
                   int32_t copies, int32_t half) {
  if (width > MOST_VECTORS * LANES || width % LANES) return 1;
  if (half)
    attend_all(key, value, query, out, count, width, copies, 1);
  else
    attend_all(key, value, query, out, count, width, copies, 0);
  return 0;
}
