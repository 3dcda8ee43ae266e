// How `varve ingest --kv-codec` and tables write the codecs of a context: NAME, or HOT,WARM,COLD of
// a ladder, where WARM may be empty and COLD left out.
#pragma once

#include <optional>
#include <string>

#include <nlohmann/json_fwd.hpp>

namespace varve::cli {

// From the server's "codec": a string or an object.
std::string CodecText(const nlohmann::json& codec);
// The reverse.
nlohmann::json CodecObject(const std::string& text);

// How a new context keeps its KV; what is absent is the server's to choose.
struct KvChoice {
  std::string codec;
  std::string tokens;
  std::optional<double> keep;
};

// As "kv" of a request; empty if everything is the server's to choose.
nlohmann::json KvObject(const KvChoice& choice);

}  // namespace varve::cli
