// How long to search. Effort never changes a format, only which of its blocks is chosen.
#pragma once

namespace raq {

// `plain` replaces `fast` where all columns count alike: the simple formats, which llama.cpp then
// only rounds, are searched less.
enum class Effort : int { fast = 0, best = 1, plain = 2 };

}  // namespace raq
