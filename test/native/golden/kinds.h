// The kinds of cases this program runs, one function each.
#pragma once

#include "cases.h"
#include "models.h"
#include "report.h"

namespace longhaul::golden {

struct Context {
  Backend& backend;
  Models& models;
  Report& report;
};

// A Status that is not ok: the case is broken or the engine refused it. Failed comparisons are lines.
using RunCase = Status (*)(Context&, const Case&);

Status run_model(Context&, const Case&);
Status run_epicache(Context&, const Case&);
Status run_epicache_multi_turn(Context&, const Case&);
Status run_layer_budgets(Context&, const Case&);
Status run_sampling(Context&, const Case&);
Status run_attention(Context&, const Case&);
Status run_adapter(Context&, const Case&);
Status run_bad_adapter(Context&, const Case&);
Status run_mixed_adapter_batch(Context&, const Case&);
Status run_dynmole_router(Context&, const Case&);
Status run_dynmole_layer(Context&, const Case&);
Status run_dynmole_aux(Context&, const Case&);

}  // namespace longhaul::golden
