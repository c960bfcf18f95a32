export { Adapter, type LoadAdapterOptions } from "./adapter.js";
export type { Answer, AnswerStream } from "./answer.js";
export type { Chunk } from "./answer-text.js";
export type {
  AskOptions,
  Conversation,
  IngestOptions,
  IngestProgress,
  Input,
  ReclusterOptions,
  SaveOptions,
} from "./conversation.js";
export type { DeviceName } from "./device.js";
export {
  type ConversationOptions,
  type EmbedOptions,
  Engine,
  type EngineInfo,
  type LoadOptions,
  type Score,
  type ScoreOptions,
  type WeightsProgress,
} from "./engine.js";
export type { BuilderName } from "./episodes/builder.js";
export type { EpisodeCount } from "./episodes/clusters.js";
export type { EpisodeMemory, EpisodesMemory } from "./episodes/memory.js";
export type { Embed, EpisodeOptions } from "./episodes/options.js";
export { type ErrorCode, LonghaulError } from "./errors.js";
export type { GenerateOptions } from "./generation.js";
export { type DownloadProgress, type ResolveOptions, resolveModel } from "./hub.js";
export { type Device, type Info, info } from "./info.js";
export * as kernels from "./kernels.js";
export { layerBudgets, paperLayerBudgets, publishedLayerBudgets } from "./layer-budgets.js";
export type { LayerProfile, ProfileOptions, ProfileProgress } from "./layer-profile.js";
export {
  type ConversationMemory,
  type EngineMemory,
  type LayerDivision,
  type MemoryOptions,
  POLICIES,
  type Policy,
  type PositionsMemory,
} from "./memory.js";
export { type Certificate, type CertifyOptions, certifyPlan, planLowerBound } from "./planner/certificate.js";
export { planChart } from "./planner/chart.js";
export { checkPlan } from "./planner/check.js";
export { type Cluster, clusterBandwidths, type SimulatedStep, simulateStep } from "./planner/cluster.js";
export {
  ATTENTION_KINDS,
  type AttentionKind,
  type Bandwidths,
  formatCosts,
  type PlannedModel,
  parseCosts,
  type SequenceParallelCosts,
} from "./planner/costs.js";
export { type ComputeSample, fitBandwidth, fitComputeCosts, fitTokensPerDevice } from "./planner/fit.js";
export { type LengthsOptions, parseLengths } from "./planner/lengths-file.js";
export { type PageFacts, planPage } from "./planner/page.js";
export { planSequenceParallel } from "./planner/plan.js";
export { type FlexspOptions, type PolishOptions, planFlexsp, polishPlan } from "./planner/polish.js";
export {
  PUBLISHED_MODELS,
  type PublishedCostsOptions,
  type PublishedModel,
  publishedCosts,
} from "./planner/published-costs.js";
export { planBestStaticDegree, planStaticDegree } from "./planner/static-plan.js";
export type { MicroBatch, PlannedGroup, PlanOptions, SequenceParallelPlan } from "./planner/types.js";
export type { RestoreOptions } from "./snapshots/restore.js";
export { ChatTemplate, type Message } from "./text/chat-template.js";
export { type StreamDecoder, Tokenizer } from "./text/tokenizer.js";
export {
  loadTranscript,
  parseTranscript,
  type Transcript,
  type TranscriptOptions,
  type TranscriptQuestion,
  type Utterance,
} from "./transcript.js";
