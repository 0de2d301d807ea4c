// Search for the scale of a format without a base: x ~ scale * code.
//
// `Codes` defines the codes: `round` gives the one nearest to a number, `low` is the end further from zero.
//
// For given codes the best scale is s = sum(h x c) / sum(h c^2). It explains sum(h x c)^2 / sum(h c^2) of the
// energy sum(h x^2), and what is not explained is the error. So a candidate is judged by its two sums alone.
//
// Candidates put the weight of largest magnitude at, near and beyond the end of the code range; each is
// followed by its best scale. h is the importance: exactly the weight of each column in the error this
// project reports (DECISIONS 17).
#pragma once

#include "common/half.hpp"
#include "effort.hpp"

namespace raq::RAQ_LEVEL {

// Whole numbers from low to high.
template <int low_, int high_>
struct Whole {
  static constexpr float low = low_, high = high_;
  RAQ_INLINE static Float round(Float value) { return nearest(clamp(value, low, high)); }
};

struct CodeSums {
  Float cross;   // sum(h x c)
  Float square;  // sum(h c c)
};

template <class Codes, int N>
RAQ_INLINE CodeSums code_sums(const Float* x, const Float* h, Float inverse) {
  CodeSums sums{splat(0.0f), splat(0.0f)};
  RAQ_UNROLL
  for (int k = 0; k < N; ++k) {
    const Float code = Codes::round(x[k] * inverse);
    const Float weighted = h[k] * code;
    sums.cross += weighted * x[k];
    sums.square += weighted * code;
  }
  return sums;
}

struct ScaleFit {
  Float scale;
  Float gain;    // energy explained by that scale
  Float square;  // sum(h c c) of its codes: what an error in the scale costs
};

RAQ_INLINE void keep_better(ScaleFit& best, CodeSums sums) {
  const Float scale = quotient_or_zero(sums.cross, sums.square);
  const Float gain = scale * sums.cross;
  const Mask better = gain > best.gain;
  best.scale = select(better, scale, best.scale);
  best.square = select(better, sums.square, best.square);
  best.gain = select(better, gain, best.gain);
}

// Bias correction: what a block's final scale is multiplied with.
//
// Least squares shrinks a block: sum(h x r) falls short of sum(h x^2) by the error. Errors of single weights
// average out in a product with activations, but a block that is smaller as a whole does not: at 2 to 3 bits
// a model is measurably nearer to its original with the scale that restores sum(h x r) to sum(h x^2).
//
// `energy` is sum(h x^2), `explained` is sum(h x r), and `way` is the part of the correction that is
// applied. The added squared error grows with the square of `way`, the benefit still missing with the
// square of 1 - `way`: the default, half, takes three quarters of the benefit at a quarter of the price.
// The bound of 1.25 keeps blocks of which little is explained from growing without limit. Measured:
// DECISIONS 17 and docs/native.md.
RAQ_INLINE Float restoring_gain(Float energy, Float explained, float way = 0.5f) {
  return 1.0f + way * (clamp(quotient_or_zero(energy, explained), 1.0f, 1.25f) - 1.0f);
}

// The signed weight of largest magnitude.
template <int N>
RAQ_INLINE Float extreme_of(const Float* x) {
  Float extreme = splat(0.0f);
  for (int k = 0; k < N; ++k) extreme = select(magnitude(x[k]) > magnitude(extreme), x[k], extreme);
  return extreme;
}

// Candidates put the extreme weight up to `steps` spacings below and beyond the end of the codes; `mirrored`,
// also at the other, shorter end.
struct ScaleSearch {
  int steps;
  float spacing;
  bool mirrored;
  int refinements;  // rounds of rounding to the best scale so far and fitting again
  int rounds;       // of choosing whole scales of sub-blocks and fitting the super-block to them
};
// `unit` is the distance of neighbouring codes near their end.
RAQ_INLINE ScaleSearch scale_search(Effort effort, float unit = 1.0f) {
  if (effort == Effort::best) return {18, 0.1f * unit, true, 3, 3};
  return {9, 0.1f * unit, false, 1, 1};
}
// For a block that is not part of a super-block.
RAQ_INLINE ScaleSearch simple_scale_search(Effort effort) {
  if (effort == Effort::plain) return {1, 0.7f, false, 1, 0};
  return scale_search(effort);
}

// The largest magnitude of a weight.
template <int N>
RAQ_INLINE Float largest_of(const Float* x) {
  Float largest = splat(0.0f);
  for (int k = 0; k < N; ++k) largest = larger(magnitude(x[k]), largest);
  return largest;
}

template <class Codes, int N>
RAQ_INLINE ScaleFit fit_scale(const Float* x, const Float* h, const ScaleSearch& search) {
  const Float inverse_extreme = inverse_or_zero(extreme_of<N>(x));
  ScaleFit best{splat(0.0f), splat(0.0f), splat(0.0f)};
  RAQ_ROLLED
  for (int step = -search.steps; step <= search.steps; ++step) {
    const Float inverse = (Codes::low - search.spacing * static_cast<float>(step)) * inverse_extreme;
    keep_better(best, code_sums<Codes, N>(x, h, inverse));
    if (search.mirrored) keep_better(best, code_sums<Codes, N>(x, h, splat(0.0f) - inverse));
  }
  RAQ_ROLLED
  for (int round = 0; round < search.refinements; ++round)
    keep_better(best, code_sums<Codes, N>(x, h, inverse_or_zero(best.scale)));
  return best;
}

// Shape of a super-block whose sub-blocks have a whole-number scale each: x ~ d * sub_scale * code.
struct SymmetricShape {
  int sub_blocks;
  int length;  // weights per sub-block
  int scale_low, scale_high;
};

template <class Codes, SymmetricShape s>
struct SymmetricSuperBlock {
  Float codes[s.sub_blocks * s.length];
  Float scales[s.sub_blocks];
  StoredScale d;

  RAQ_HD void search(const Float* x, const Float* h, Unit unit, const ScaleSearch& how) {
    Float wanted[s.sub_blocks];
    Float stakes[s.sub_blocks];
    RAQ_ROLLED
    for (int j = 0; j < s.sub_blocks; ++j) {
      const ScaleFit fit = fit_scale<Codes, s.length>(x + j * s.length, h + j * s.length, how);
      wanted[j] = fit.scale;
      stakes[j] = fit.square;
    }
    // The scales of the sub-blocks are themselves rounded to whole multiples of d. So d is fitted to them
    // like a scale to weights, each counted by what an error in it costs.
    const ScaleFit fit =
        fit_scale<Whole<s.scale_low, s.scale_high>, s.sub_blocks>(wanted, stakes, scale_search(Effort::fast));
    d = store_scale(fit.scale, unit);
    RAQ_ROLLED
    for (int round = 0; round < how.rounds; ++round) choose_scales(x, h, wanted, unit);
    choose_codes(x, h, unit);
  }

 private:
  // Each sub-block takes the best of three neighbouring whole scales; then d is fitted to what they became.
  RAQ_HD void choose_scales(const Float* x, const Float* h, const Float* wanted, Unit unit) {
    const Float inverse = inverse_or_zero(d.value);
    Float cross = splat(0.0f), square = splat(0.0f);
    RAQ_ROLLED
    for (int j = 0; j < s.sub_blocks; ++j) {
      // One step from either end of the range, so that both neighbours exist.
      const Float middle = nearest(clamp(wanted[j] * inverse, s.scale_low + 1, s.scale_high - 1));
      scales[j] = splat(0.0f);
      Float best_gain = splat(-1e30f), best_cross = splat(0.0f), best_square = splat(0.0f);
      RAQ_ROLLED
      for (int offset = -1; offset <= 1; ++offset) {
        const Float candidate = middle + static_cast<float>(offset);
        const Float scale = d.value * candidate;
        const CodeSums sums =
            code_sums<Codes, s.length>(x + j * s.length, h + j * s.length, inverse_or_zero(scale));
        // sum(h x^2) - sum(h (x - scale c)^2)
        const Float gain = scale * (2.0f * sums.cross - scale * sums.square);
        const Mask better = gain > best_gain;
        best_gain = select(better, gain, best_gain);
        scales[j] = select(better, candidate, scales[j]);
        best_cross = select(better, sums.cross, best_cross);
        best_square = select(better, sums.square, best_square);
      }
      cross += scales[j] * best_cross;
      square += scales[j] * (scales[j] * best_square);
    }
    d = store_scale(quotient_or_zero(cross, square), unit);
  }

  RAQ_HD void choose_codes(const Float* x, const Float* h, Unit unit) {
    Float energy = splat(0.0f), explained = splat(0.0f);
    for (int j = 0; j < s.sub_blocks; ++j) {
      const Float scale = d.value * scales[j], inverse = inverse_or_zero(scale);
      for (int k = j * s.length; k < (j + 1) * s.length; ++k) {
        codes[k] = Codes::round(x[k] * inverse);
        const Float hx = h[k] * x[k];
        energy += hx * x[k];
        explained += hx * (scale * codes[k]);
      }
    }
    d = store_scale(d.value * restoring_gain(energy, explained), unit);
  }
};

}  // namespace raq::RAQ_LEVEL
