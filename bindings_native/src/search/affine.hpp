// Search for an affine format: x ~ scale * code + base, code a whole number in [0, high].
//
// For given codes the best (scale, base) solves a 2 x 2 system in the sums below and explains
// scale * sum(h x c) + base * sum(h x) of the energy; candidates are judged by that. They spread the codes
// over the block's range, a little less and a little more. In the K formats the base is -offset with a stored
// offset >= 0, so a positive base is replaced by zero and the scale fitted again.
#pragma once

#include "effort.hpp"
#include "search/symmetric.hpp"

namespace raq::RAQ_LEVEL {

struct AffineFit {
  Float scale;
  Float base;
  Float gain;
  Float square;  // sum(h c c) of its codes
};

struct AffineSums {
  Float weight;  // sum(h), the same for all candidates
  Float plain;   // sum(h x), likewise
  Float code;    // sum(h c)
  Float square;  // sum(h c c)
  Float cross;   // sum(h x c)
};

template <int N>
RAQ_INLINE void add_codes(AffineSums& sums, const Float* x, const Float* h, Float inverse, Float base,
                          float high) {
  sums.code = sums.square = sums.cross = splat(0.0f);
  RAQ_UNROLL
  for (int k = 0; k < N; ++k) {
    const Float code = nearest(clamp((x[k] - base) * inverse, 0.0f, high));
    const Float weighted = h[k] * code;
    sums.code += weighted;
    sums.square += weighted * code;
    sums.cross += weighted * x[k];
  }
}

template <bool base_is_free>
RAQ_INLINE void keep_better(AffineFit& best, const AffineSums& sums) {
  const Float zero = splat(0.0f);
  const Float determinant = sums.weight * sums.square - sums.code * sums.code;
  // The system is singular where all codes are alike; rounding may leave a tiny determinant then.
  const Mask solvable = determinant > 1e-6f * (sums.weight * sums.square);
  const Float inverse = splat(1.0f) / select(solvable, determinant, splat(1.0f));
  Float scale = (sums.weight * sums.cross - sums.plain * sums.code) * inverse;
  Float base = (sums.square * sums.plain - sums.code * sums.cross) * inverse;
  if constexpr (!base_is_free) {
    const Mask positive = base > zero;
    scale = select(positive, quotient_or_zero(sums.cross, sums.square), scale);
    base = select(positive, zero, base);
  }
  const Float gain = scale * sums.cross + base * sums.plain;
  const Mask better = solvable & (gain > best.gain) & (scale > zero);
  best.scale = select(better, scale, best.scale);
  best.base = select(better, base, best.base);
  best.square = select(better, sums.square, best.square);
  best.gain = select(better, gain, best.gain);
}

// Candidates: scales that spread the codes over the block's range, a little less and a little more; for each,
// bases from a little below the smallest weight to a little above. Steps are fractions of a code. Bases are
// worth trying: with scales alone 2 to 6 % more error is left.
struct AffineSearch {
  int scale_steps;
  float scale_spacing;
  int first_base, last_base;
  float base_spacing;
  int refinements;  // rounds of rounding to the best fit so far and fitting again
  int rounds;       // of choosing whole scales of sub-blocks and fitting the super-block to them
};
RAQ_INLINE AffineSearch affine_search(Effort effort) {
  if (effort == Effort::best) return {12, 0.1f, -2, 4, 0.25f, 3, 3};
  return {4, 0.225f, -1, 2, 0.35f, 1, 1};
}
// For a block that is not part of a super-block. Without importance ggml only rounds, and Q4_1 fastest of all
// types: a refit of its codes would save 3 % of the error and make us no faster than ggml.
RAQ_INLINE AffineSearch simple_affine_search(Effort effort, float high) {
  if (effort == Effort::plain) return {0, 0.0f, 0, 0, 0.0f, high > 15 ? 1 : 0, 0};
  return affine_search(effort);
}

template <int N, bool base_is_free>
RAQ_INLINE AffineFit fit_affine(const Float* x, const Float* h, float high, const AffineSearch& search,
                                Float& weight) {
  Float low = base_is_free ? x[0] : smaller(x[0], splat(0.0f));
  Float top = x[0];
  AffineSums sums{};
  for (int k = 0; k < N; ++k) {
    low = smaller(x[k], low);
    top = larger(x[k], top);
    sums.weight += h[k];
    sums.plain += h[k] * x[k];
  }
  weight = sums.weight;
  // The first candidate: all weights become one value, their mean (if its sign is allowed).
  const Float mean = quotient_or_zero(sums.plain, sums.weight);
  AffineFit best{splat(0.0f), base_is_free ? mean : smaller(mean, splat(0.0f)), splat(0.0f), splat(0.0f)};
  best.gain = best.base * sums.plain;
  const Float inverse_range = inverse_or_zero(top - low);
  const Float range = top - low;
  RAQ_ROLLED
  for (int step = -search.scale_steps; step <= search.scale_steps; ++step) {
    const float spread = high + search.scale_spacing * static_cast<float>(step);
    RAQ_ROLLED
    for (int base = search.first_base; base <= search.last_base; ++base) {
      const Float start = low + range * (search.base_spacing * static_cast<float>(base) / spread);
      add_codes<N>(sums, x, h, spread * inverse_range, start, high);
      keep_better<base_is_free>(best, sums);
    }
  }
  RAQ_ROLLED
  for (int round = 0; round < search.refinements; ++round) {
    add_codes<N>(sums, x, h, inverse_or_zero(best.scale), best.base, high);
    keep_better<base_is_free>(best, sums);
  }
  return best;
}

// Shape of a super-block: x ~ d * sub_scale * code - dmin * sub_offset, all whole numbers but d and dmin.
struct AffineShape {
  int sub_blocks;
  int length;
  int high;        // codes are 0..high
  int scale_high;  // sub-scales and sub-offsets are 0..scale_high
};

template <AffineShape s>
struct AffineSuperBlock {
  Float codes[s.sub_blocks * s.length];
  Float scales[s.sub_blocks];
  Float offsets[s.sub_blocks];
  StoredScale d, dmin;

  RAQ_HD void search(const Float* x, const Float* h, Unit unit, Effort effort) {
    const AffineSearch how = affine_search(effort);
    Float wanted_scales[s.sub_blocks], wanted_offsets[s.sub_blocks], scale_stakes[s.sub_blocks],
        weights[s.sub_blocks];
    RAQ_ROLLED
    for (int j = 0; j < s.sub_blocks; ++j) {
      const AffineFit fit =
          fit_affine<s.length, false>(x + j * s.length, h + j * s.length, s.high, how, weights[j]);
      wanted_scales[j] = fit.scale;
      wanted_offsets[j] = splat(0.0f) - fit.base;
      scale_stakes[j] = fit.square;
    }
    d = store_scale(fit_positive<s.sub_blocks>(wanted_scales, scale_stakes, 9).scale, unit);
    dmin = store_scale(fit_positive<s.sub_blocks>(wanted_offsets, weights, 9).scale, unit);
    RAQ_ROLLED
    for (int round = 0; round < how.rounds; ++round)
      choose_scales(x, h, wanted_scales, wanted_offsets, weights, unit);
    choose_codes(x, h, unit);
  }

 private:
  // Sums over a super-block of h times products of a = sub_scale * code, b = sub_offset and x:
  // what refitting d and dmin needs.
  struct SuperSums {
    Float aa, ab, bb, ax, bx;
  };

  // One scale for numbers that are all positive: candidates put the largest of them
  // near the end of the range.
  template <int N>
  RAQ_INLINE static ScaleFit fit_positive(const Float* x, const Float* h, int steps) {
    using Codes = Whole<0, s.scale_high>;
    const Float inverse_top = inverse_or_zero(extreme_of<N>(x));
    ScaleFit best{splat(0.0f), splat(0.0f), splat(0.0f)};
    RAQ_ROLLED
    for (int step = -steps; step <= steps; ++step)
      keep_better(best,
                  code_sums<Codes, N>(x, h, (Codes::high + 0.1f * static_cast<float>(step)) * inverse_top));
    keep_better(best, code_sums<Codes, N>(x, h, inverse_or_zero(best.scale)));
    return best;
  }

  // Tries whole scales next to the wanted one; for each the offset that suits its codes.
  RAQ_HD void choose_scales(const Float* x, const Float* h, const Float* wanted_scales,
                            const Float* wanted_offsets, const Float* weights, Unit unit) {
    const Float inverse_d = inverse_or_zero(d.value), inverse_dmin = inverse_or_zero(dmin.value);
    SuperSums total{};
    RAQ_ROLLED
    for (int j = 0; j < s.sub_blocks; ++j) {
      const Float *xj = x + j * s.length, *hj = h + j * s.length;
      AffineSums sums{};
      sums.weight = weights[j];
      for (int k = 0; k < s.length; ++k) sums.plain += hj[k] * xj[k];
      const Float middle = nearest(clamp(wanted_scales[j] * inverse_d, 1.0f, s.scale_high - 1));
      const Float first_offset = nearest(clamp(wanted_offsets[j] * inverse_dmin, 0.0f, s.scale_high));
      scales[j] = offsets[j] = splat(0.0f);
      Float best_gain = splat(-1e30f);
      AffineSums best_sums{};
      RAQ_ROLLED
      for (int delta = -1; delta <= 1; ++delta) {
        const Float candidate = middle + static_cast<float>(delta);
        const Float scale = d.value * candidate, inverse = inverse_or_zero(scale);
        // Round 0: the offset that the sub-block wanted. Round 1: the one that suits the codes this led to.
        Float offset = first_offset;
        RAQ_ROLLED
        for (int round = 0; round < 2; ++round) {
          const Float base = splat(0.0f) - dmin.value * offset;
          add_codes<s.length>(sums, xj, hj, inverse, base, s.high);
          // sum(h x^2) - sum(h (x - scale c - base)^2)
          const Float gain = 2.0f * (scale * sums.cross + base * sums.plain) - scale * (scale * sums.square) -
                             base * (2.0f * scale * sums.code + base * sums.weight);
          const Mask better = gain > best_gain;
          best_gain = select(better, gain, best_gain);
          scales[j] = select(better, candidate, scales[j]);
          offsets[j] = select(better, offset, offsets[j]);
          best_sums.code = select(better, sums.code, best_sums.code);
          best_sums.square = select(better, sums.square, best_sums.square);
          best_sums.cross = select(better, sums.cross, best_sums.cross);
          const Float refit = quotient_or_zero(scale * sums.code - sums.plain, sums.weight);
          offset = nearest(clamp(refit * inverse_dmin, 0.0f, s.scale_high));
        }
      }
      total.aa += scales[j] * (scales[j] * best_sums.square);
      total.ab += scales[j] * (offsets[j] * best_sums.code);
      total.bb += offsets[j] * (offsets[j] * weights[j]);
      total.ax += scales[j] * best_sums.cross;
      total.bx += offsets[j] * sums.plain;
    }
    refit(total, unit);
  }

  // Best d and dmin for the chosen whole numbers: x ~ d a - dmin b.
  RAQ_HD void refit(const SuperSums& t, Unit unit) {
    const Float determinant = t.aa * t.bb - t.ab * t.ab;
    const Mask solvable = determinant > 1e-5f * (t.aa * t.bb);
    const Float inverse = splat(1.0f) / select(solvable, determinant, splat(1.0f));
    const Float new_d = (t.ax * t.bb - t.ab * t.bx) * inverse;
    const Float new_dmin = (t.ab * t.ax - t.aa * t.bx) * inverse;
    // A negative d or dmin would turn scales or offsets around, so the old ones stay. Without any offset dmin
    // cancels out, and d is fitted alone.
    const Mask sound = solvable & (new_d > splat(0.0f)) & (new_dmin > splat(0.0f));
    const Mask no_offsets = t.bb == splat(0.0f);
    const Float alone = quotient_or_zero(t.ax, t.aa);
    d = store_scale(select(sound, new_d, select(no_offsets, alone, d.value)), unit);
    dmin = store_scale(select(sound, new_dmin, dmin.value), unit);
  }

  RAQ_HD void choose_codes(const Float* x, const Float* h, Unit unit) {
    Float energy = splat(0.0f), explained = splat(0.0f);
    for (int j = 0; j < s.sub_blocks; ++j) {
      const Float scale = d.value * scales[j], base = dmin.value * offsets[j],
                  inverse = inverse_or_zero(scale);
      for (int k = j * s.length; k < (j + 1) * s.length; ++k) {
        codes[k] = nearest(clamp((x[k] + base) * inverse, 0.0f, s.high));
        const Float hx = h[k] * x[k];
        energy += hx * x[k];
        explained += hx * (scale * codes[k] - base);
      }
    }
    const Float gain = restoring_gain(energy, explained);
    d = store_scale(d.value * gain, unit);
    dmin = store_scale(dmin.value * gain, unit);
  }
};

}  // namespace raq::RAQ_LEVEL
