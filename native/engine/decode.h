// Tokens of answers: one pass and one draw for all that are under way.
#pragma once

#include <span>
#include <vector>

#include "engine/tasks.h"

namespace longhaul {

// The first token of an answer, from the last row of the pass before. As Task::step.
Result<bool> draw_first(Engine& engine, GenerateTask& task, Sequence& sequence);

// Runs the pending token of each task's sequence in one pass, and draws the next of each. A task that cannot go
// on is left out of the pass and fails alone. [tasks], each as Task::step.
std::vector<Result<bool>> decode_together(Engine& engine, std::span<GenerateTask* const> tasks);

}  // namespace longhaul
