/* record.h - the shape of a record: what one job gave, as JSON.
 *
 * run_job() makes it in the engine, rank 0 adds rank and host and writes it to the journal, the
 * results file is built from it.  Members:
 *
 *   "job"           the job's JSON (sweep/job.h): experiment, seed, key, quality, benchmark, quant
 *   "status"        "success" | "error"
 *   "error", "error_code", "error_stage"     where status is "error"; stage: "load", "group",
 *                   "quantize", "sanity", "coqa", "perplexity", "divergence", "multiple_choice",
 *                   "benchmark", "process"
 *   "rank", "hostname", "device", "started", "finished"
 *   "driver"        of the device, "shared_by" what brought the weights from another one; both
 *                   only where there is one
 *   "tensor_parallel"   devices that shared the job; absent: one.  "rank", "device" and the bytes
 *                   of "memory" but "model_bytes" are the first one's
 *   "notes"         what the device did otherwise than usual, "sentence; sentence"; else absent
 *   "seconds"       { stage: seconds, ..., "total": s }
 *   "quantization"  { "model_bytes", "bits_per_weight_linear", "bits_per_weight_model", "seconds",
 *                     "hf_footprint_bytes", "modules": { "name": [..], "bits_per_weight": [..],
 *                     "mse": [..], "relative_error": [..] },
 *                     awq: "scale_search": { "name": [..], "ratio": [..], "ratio_loss": [..],
 *                     "chosen": [..] } }
 *   "sanity"        { "prompt": [..], "generated": [..], "flags": [..], "broken": bool }
 *   "coqa"          { "f1", "em", "f1_official", "em_official", "n", "turns", "truncated",
 *                     "document_id": [..], "turn": [..], "source": [..], "f1_item": [..],
 *                     "em_item": [..], "f1_official_item", "em_official_item", "precision_item",
 *                     "recall_item", "prediction": [..],
 *                     "by_source": { "source": [..], "n": [..], "f1": [..], "em": [..] } }
 *   "perplexity"    { "perplexity", "nll_sum", "n_tokens", "protocol", "window",
 *                     "window_nll": [..] }
 *                   protocol lm_eval also "word_perplexity", "byte_perplexity", "bits_per_byte",
 *                   "n_words", "n_bytes", "n_documents", and of each window its "document_id",
 *                   "turn" and "window_tokens"
 *   "divergence"    { "kl_mean", "top1_agreement", "flips", "log_perplexity_ratio",
 *                     "delta_p_mean", "delta_p_rms", "n_tokens", "protocol", "window",
 *                     "kl_percentiles", "delta_p_percentiles" (each "percent", "value": [..]),
 *                     "window_kl": [..], "window_top1_agreement": [..],
 *                     "window_log_ratio": [..] }
 *   "multiple_choice" { TASK: { "acc", "acc_norm", "n", "truncated", "version",
 *                     "document_id": [..], "gold": [..], "chosen": [..], "correct": [..] (0 or 1),
 *                     "chosen_norm": [..], "correct_norm": [..], "log_likelihood": [[..], ..] } }
 *                   without the _norm where the task has none; where several questions share a
 *                   document also "question_id" and "turn"; mmlu: "by_subject": { "subject": [..],
 *                   "n": [..], "acc": [..] }; lambada: "acc", "perplexity", "correct", "nll"
 *   "memory"        { "model_size_mb", "model_bytes", "kv_cache_bytes", "scratch_bytes",
 *                     "peak_bytes" }
 *   "latency"       { "prefill_tokens": [..], "prefill_ms": [[..], ..] (one list a length),
 *                     "decode_ms_per_token": [..], "e2e_ms": [..] }
 *   "throughput"    { "batch_size": [..], "tokens_per_s": [[..], ..] }
 *   "roofline"      { "point": [..], "gbyte", "gflop", "seconds", "gbyte_per_s", "tflop_per_s" }:
 *                   what each point of the benchmark must read and compute, over its median time
 *   "clocks"        { "points": { "point": [..], "warmup_runs", "sm_mhz_before", "sm_mhz_after",
 *                     "moved", "limits_before", "limits", "temperature_c", "device_ms" },
 *                     "moved_points", "other_processes" } where the device tells
 *   "energy"        { "joule_per_token", "watt", "idle_watt", "n_tokens", "seconds" }, likewise
 *
 * In the results file a scalar member becomes an attribute, an array a dataset (NAME_item as
 * dataset NAME), an object a group, an object of equally long arrays a table.  */
#pragma once
