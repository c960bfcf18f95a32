// Ranks that are threads of one process. A message is copied once, by its receiver.
#pragma once

#include <memory>
#include <vector>

#include "parallel/transport.h"

namespace longhaul {

// The ends of a world of `size` ranks, in order. An end that is destroyed counts as a rank that is gone.
std::vector<std::unique_ptr<Transport>> make_thread_transports(int size);

}  // namespace longhaul
