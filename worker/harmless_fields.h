// The fields of config.json that may be there and are not read. Every other field is either read or
// refused by its name.
#pragma once

#include <array>
#include <string_view>

namespace varve {

// Fields that do not change what a causal forward pass computes: identity, training, text
// generation defaults, and how other libraries run the model.
inline constexpr auto kHarmlessFields =
    std::to_array<std::string_view>({"architectures",
                                     "model_type",
                                     "_name_or_path",
                                     "name_or_path",
                                     "transformers_version",
                                     "dtype",
                                     "torch_dtype",
                                     "bos_token_id",
                                     "eos_token_id",
                                     "pad_token_id",
                                     "unk_token_id",
                                     "sep_token_id",
                                     "decoder_start_token_id",
                                     "attention_dropout",
                                     "initializer_range",
                                     "use_cache",
                                     "pretraining_tp",
                                     "_attn_implementation",
                                     "attn_implementation",
                                     "_attn_implementation_autoset",
                                     "cache_implementation",
                                     "output_attentions",
                                     "output_hidden_states",
                                     "return_dict",
                                     "return_dict_in_generate",
                                     "output_scores",
                                     "torchscript",
                                     "use_bfloat16",
                                     "chunk_size_feed_forward",
                                     "id2label",
                                     "label2id",
                                     "problem_type",
                                     "finetuning_task",
                                     "task_specific_params",
                                     "tokenizer_class",
                                     "prefix",
                                     "do_sample",
                                     "temperature",
                                     "top_k",
                                     "top_p",
                                     "typical_p",
                                     "min_length",
                                     "max_length",
                                     "max_new_tokens",
                                     "num_beams",
                                     "num_beam_groups",
                                     "diversity_penalty",
                                     "length_penalty",
                                     "repetition_penalty",
                                     "no_repeat_ngram_size",
                                     "encoder_no_repeat_ngram_size",
                                     "bad_words_ids",
                                     "num_return_sequences",
                                     "early_stopping",
                                     "exponential_decay_length_penalty",
                                     "suppress_tokens",
                                     "begin_suppress_tokens",
                                     "forced_bos_token_id",
                                     "forced_eos_token_id",
                                     "remove_invalid_values",
                                     "unsloth_fixed",
                                     "unsloth_version",
                                     "is_llama_config",
                                     "transformers.js_config"});

}  // namespace varve
