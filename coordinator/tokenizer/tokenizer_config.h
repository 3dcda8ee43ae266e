// Reads what stands beside the tokenizer: which token begins a text, which ones end it, the chat
// template.
#pragma once

#include <string>

#include "coordinator/tokenizer/tokenizer_spec.h"
#include "proto/base/result.h"

namespace varve {

// Every file is optional. Of tokenizer_config.json the fields that TokenizerConfig names are read;
// its many others describe Python classes and are not looked at. Refused: add_eos_token.
Result<TokenizerConfig> ReadTokenizerConfig(const std::string& model_dir);

}  // namespace varve
