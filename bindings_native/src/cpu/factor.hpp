// The factor of a Gram matrix for error feedback (feedback.hpp), in double precision.
//
// With H the damped matrix and J the reversal of rows and columns, J H J = W^T W for W upper triangular
// (Cholesky), so H = R R^T for R = J W^T J, and U = R^-1 = J (W^-1)^T J has H^-1 = U^T U. So what is computed
// is W and its inverse X.
//
// Products are subtracted from an element one by one, in the order of the rows of W, however many elements are
// worked on together: so neither tiles nor lanes nor threads change a bit. Below the diagonal is garbage,
// which nothing reads.
#pragma once

#include "common/portable.hpp"
#include "cpu/kernels.hpp"

namespace raq::RAQ_LEVEL::factoring {

typedef double Doubles __attribute__((vector_size(RAQ_LANES * sizeof(float))));
constexpr int in_vector = RAQ_LANES / 2, vectors = 2;
constexpr int wide = vectors * in_vector;         // columns of a tile
constexpr int high = RAQ_LANES == 16 ? 8 : 4;     // and its rows: as many as registers hold
constexpr int panel = factor::panel, near = 128;  // columns whose part of a panel stays in the cache
static_assert(factor::step % wide == 0 && factor::step % high == 0 && near % wide == 0);

RAQ_INLINE Doubles load(const double* from) {
  Doubles found;
  memcpy(&found, from, sizeof found);
  return found;
}

// c[i][j] -= a[i * a_row + k * a_step] * b[k][j] for k from 0 to `depth` in order, in a tile of c.
RAQ_INLINE void subtract(double* c, const double* a, std::int64_t a_row, std::int64_t a_step, const double* b,
                         std::int64_t stride, int depth) {
  Doubles left[high][vectors];
#pragma GCC unroll 8
  for (int i = 0; i < high; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) left[i][v] = load(c + i * stride + v * in_vector);
  for (int k = 0; k < depth; ++k)
#pragma GCC unroll 8
    for (int i = 0; i < high; ++i) {
      const double times = a[i * a_row + k * a_step];
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) left[i][v] -= times * load(b + k * stride + v * in_vector);
    }
#pragma GCC unroll 8
  for (int i = 0; i < high; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) memcpy(c + i * stride + v * in_vector, &left[i][v], sizeof(Doubles));
}

// Rows `first` to `last` of W from those of the matrix with all products of earlier rows subtracted. False if
// the matrix is not positive definite.
inline bool finish_rows(double* w, std::int64_t size, std::int64_t first, std::int64_t last) {
  for (std::int64_t k = first; k < last; ++k) {
    double* row = w + k * size;
    if (!(row[k] > 0)) return false;
    const double pivot = __builtin_sqrt(row[k]);
    row[k] = pivot;
    for (std::int64_t j = k + 1; j < size; ++j) row[j] /= pivot;
    for (std::int64_t i = k + 1; i < last; ++i) {
      double* later = w + i * size;
      const double times = row[i];
      for (std::int64_t j = i; j < size; ++j) later[j] -= times * row[j];
    }
  }
  return true;
}

// Subtracts the products of rows `first` to `last` of W from the rows `from` to `to` of the matrix.
inline void update_rows(double* w, std::int64_t size, std::int64_t first, std::int64_t last,
                        std::int64_t from, std::int64_t to) {
  const double* done = w + first * size;
  for (std::int64_t strip = from / near * near; strip < size; strip += near) {
    const std::int64_t end = strip + near < size ? strip + near : size;
    for (std::int64_t i = from; i < to && i < end; i += high) {
      const std::int64_t diagonal = i / wide * wide;
      for (std::int64_t j = strip < diagonal ? diagonal : strip; j < end; j += wide)
        subtract(w + i * size + j, done + i, 1, size, done + j, size, static_cast<int>(last - first));
    }
  }
}

// Rows `from` to `to` of X = W^-1, which are zero but for ones on the diagonal before.
inline void invert_rows(const double* w, double* x, std::int64_t size, std::int64_t from, std::int64_t to) {
  for (std::int64_t first = from / panel * panel; first < size; first += panel) {
    const std::int64_t last = first + panel < size ? first + panel : size;
    for (std::int64_t i = from; i < to; ++i) {
      double* row = x + i * size;
      for (std::int64_t k = first < i ? i : first; k < last; ++k) {
        row[k] /= w[k * size + k];
        for (std::int64_t j = k + 1; j < last; ++j) row[j] -= row[k] * w[k * size + j];
      }
    }
    // What is left of a row's diagonal in this panel is zero.
    for (std::int64_t j = last; j < size; j += wide)
      for (std::int64_t i = from; i < to; i += high)
        subtract(x + i * size + j, x + i * size + first, size, 1, w + first * size + j, size,
                 static_cast<int>(last - first));
  }
}

}  // namespace raq::RAQ_LEVEL::factoring
