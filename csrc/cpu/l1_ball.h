// The projection on the intersection of an L1 ball and the box of images, shared by l1_projection
// and l1_step. See deitsec/ops/l1_projection.py for the meaning.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "cpu/clones.h"
#include "math/number.h"

namespace deitsec {

constexpr int64_t kEntries =
    1024;  // entries of a row looked at together; they stay in the L1 cache

// How far an entry may go within [0, 1].
DEITSEC_INLINE float room_for(float delta, float clean) {
  return delta > 0.0f ? 1.0f - clean : clean;
}

// Sizes and rooms of these entries; gives how many are not 0.
DEITSEC_CLONES inline int64_t measure(float* sizes, float* rooms, const float* deltas,
                                      const float* clean, int64_t size) {
  int32_t moved = 0;
#pragma omp simd reduction(+ : moved)
  for (int64_t i = 0; i < size; ++i) {
    sizes[i] = std::fabs(deltas[i]);
    rooms[i] = room_for(deltas[i], clean[i]);
    moved += deltas[i] != 0.0f;
  }
  return moved;
}

// What decides lambda: the entries of a row that are not 0, |v| and how far each may go.
struct Perturbation {
  std::vector<float> sizes;
  std::vector<float> rooms;
  int64_t count = 0;

  explicit Perturbation(int64_t elements) : sizes(elements), rooms(elements) {}

  // The next entries of the row.
  void add(const float* deltas, const float* clean, int64_t size) {
    float* to_sizes = sizes.data() + count;
    float* to_rooms = rooms.data() + count;
    const int64_t moved = measure(to_sizes, to_rooms, deltas, clean, size);
    int64_t kept = moved == size ? size : 0;
    if (moved < size && moved > 0) {
      for (int64_t i = 0; i < size; ++i) {  // without a branch; kept <= i
        to_sizes[kept] = to_sizes[i];
        to_rooms[kept] = to_rooms[i];
        kept += to_sizes[i] != 0.0f;
      }
    }
    count += kept;
  }
};

// The L1 norm of the row shrunk by lambda, and how many entries a larger lambda would shrink.
struct Shrunk {
  double norm;
  int64_t active;
};

DEITSEC_CLONES inline Shrunk shrunk(const float* sizes, const float* rooms, int64_t count,
                                    double lambda) {
  double norm = 0.0;
  int64_t active = 0;
#pragma omp simd reduction(+ : norm, active)
  for (int64_t i = 0; i < count; ++i) {
    const double left = sizes[i] - lambda;
    const double room = rooms[i];
    const double kept = left > 0.0 ? left : 0.0;
    norm += kept < room ? kept : room;
    active += (left > 0.0) & (left <= room);
  }
  return {norm, active};
}

DEITSEC_CLONES inline float largest(const float* sizes, int64_t count) {
  float most = 0.0f;
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < count; ++i) most = most > sizes[i] ? most : sizes[i];
  return most;
}

// Takes out the entries that no lambda in (low, high) decides over; gives the norm of those that
// stay at their rooms.
inline double settle(Perturbation& v, double low, double high) {
  double full = 0.0;
  int64_t open = 0;
  for (int64_t i = 0; i < v.count; ++i) {
    const float size = v.sizes[i], room = v.rooms[i];
    const bool at_room = static_cast<double>(size) - room >= high;
    full += at_room ? room : 0.0f;
    v.sizes[open] = size;  // open <= i
    v.rooms[open] = room;
    open += (size > low) & !at_room;
  }
  v.count = open;
  return full;
}

// The smallest lambda >= 0 that leaves a norm of at most eps; uses up the perturbation. The norm is
// continuous, piecewise linear and falls with lambda: Newton's method within a bracket, from the
// last point or else from the lower end, and a bisection each sixth time, since a piece may be flat
// or the next one steeper.
inline double find_lambda(Perturbation& v, double eps) {
  constexpr double kClose = 1e-10;
  struct Point {
    double lambda, norm, active;
    double newton(double eps) const { return active > 0 ? lambda + (norm - eps) / active : -1.0; }
  };
  double full = 0.0;
  const auto at = [&](double lambda) {
    const Shrunk now = shrunk(v.sizes.data(), v.rooms.data(), v.count, lambda);
    return Point{lambda, full + now.norm, static_cast<double>(now.active)};
  };
  Point low = at(0.0), now = low;
  if (!(now.norm > eps)) return 0.0;
  double high = largest(v.sizes.data(), v.count);
  for (int round = 1; std::fabs(now.norm - eps) > kClose * eps; ++round) {
    const auto between = [&](double lambda) { return lambda > low.lambda && lambda < high; };
    double next = now.newton(eps);
    if (!between(next)) next = low.newton(eps);
    if (round % 6 == 0 || !between(next)) next = low.lambda + (high - low.lambda) / 2;
    if (!between(next)) break;  // no number lies between
    now = at(next);
    if (now.norm > eps) {
      low = now;
    } else {
      high = next;
    }
    if (now.active * 4 < static_cast<double>(v.count)) full += settle(v, low.lambda, high);
  }
  const double last = now.newton(eps);
  return last >= low.lambda && last <= high ? last : now.lambda;
}

// One entry of the projected image.
DEITSEC_INLINE float project_entry(float delta, float clean, float lambda) {
  const float room = room_for(delta, clean);
  const float left = std::fabs(delta) - lambda;
  const float positive = left < 0.0f ? 0.0f : left;
  const float kept = room < positive ? room : positive;
  return clean + (delta < 0.0f ? -kept : kept);
}

}  // namespace deitsec
