// The devices that ranks compute on in these tests.
#pragma once

#include <memory>
#include <string>

#include "core/backend.h"

namespace longhaul::testing {

// "reference", "cpu" (one thread), or "apart": the reference, whose memory counts as out of the processor's
// reach, so that messages are staged as those of a GPU are.
Result<std::unique_ptr<Backend>> make_rank_device(const std::string& name);

}  // namespace longhaul::testing
