// How long to search. Effort never changes a format, only which of its blocks is chosen.
#pragma once

namespace raq {

enum class Effort : int { fast = 0, best = 1 };

}  // namespace raq
