/* How unlike pixels are to all of some spectra (see fusion/change/typical_spectra.py, whose plain path says in NumPy what
 * this does). Plain C that GCC and Clang turn into vector instructions by themselves. One thread; safe to call from several.
 */

#include <stdint.h>
#include <string.h>

#include "planes.h"

#define WIDTH 256
#define MOST_DIRECTIONS 16

/* Mean over the spectra of (1 + near d^2)^-4 for every pixel, with the distance d in units of the spread.
 *
 * images is (directions, pixels), inverse (directions,) one over the spread, spectra (count, directions) in units of that,
 * all contiguous; out is (pixels,). */
int hsf_likeness(const float *images, const float *inverse, const float *spectra, int64_t directions, int64_t count,
                 int64_t pixels, float near, float *out) {
  if (directions > MOST_DIRECTIONS) return 2;
  float scaled[MOST_DIRECTIONS][WIDTH], distance[WIDTH], sum[WIDTH];
  for (int64_t start = 0; start < pixels; start += WIDTH) {
    const int64_t wide = pixels - start < WIDTH ? pixels - start : WIDTH;
    for (int64_t d = 0; d < directions; d++) {
      if (wide < WIDTH) memset(scaled[d], 0, sizeof scaled[d]);
      for (int64_t x = 0; x < wide; x++) scaled[d][x] = images[d * pixels + start + x] * inverse[d];
    }
    memset(sum, 0, sizeof sum);
    for (int64_t k = 0; k < count; k++) {
      memset(distance, 0, sizeof distance);
      for (int64_t d = 0; d < directions; d++) {
        const float value = spectra[k * directions + d];
        for (int64_t x = 0; x < WIDTH; x++) distance[x] += (scaled[d][x] - value) * (scaled[d][x] - value);
      }
      for (int64_t x = 0; x < WIDTH; x++) {
        const float once = 1.0f + near * distance[x], square = once * once;
        sum[x] += 1.0f / (square * square);
      }
    }
    for (int64_t x = 0; x < wide; x++) out[start + x] = sum[x] / (float)count;
  }
  return 0;
}
