#include "coordinator/chat_template/chat_template.h"

#include "coordinator/chat_template/jinja_evaluator.h"
#include "coordinator/chat_template/jinja_parser.h"
#include "coordinator/tokenizer/utf8.h"

#include <nlohmann/json.hpp>

namespace varve {
namespace {

using jinja::Value;
using OrderedJson = nlohmann::ordered_json;
using Variables = std::vector<std::pair<std::string, Value>>;

constexpr size_t kMinBudgetUnits = 4'000'000;  // steps; 1000 messages take some 100,000
constexpr size_t kBudgetUnitsPerByte = 1;  // so that each byte of input may be copied some 16 times

std::string Repaired(const std::string& text) {
  std::string out;
  AppendLossy(text, &out);
  return out;
}

Result<Value> FromJson(const OrderedJson& json, int depth) {
  if (depth > jinja::kMaxValueDepth) {
    return Error{ErrorCode::kInvalidArgument, "A variable of the chat template nests too deep."};
  }
  if (json.is_null()) {
    return Value();
  }
  if (json.is_boolean()) {
    return Value(json.get<bool>());
  }
  if (json.is_number_unsigned() && json.get<uint64_t>() > INT64_MAX) {
    return Value(json.get<double>());
  }
  if (json.is_number_integer()) {
    return Value(json.get<int64_t>());
  }
  if (json.is_number_float()) {
    return Value(json.get<double>());
  }
  if (json.is_string()) {
    return Value(json.get<std::string>());
  }
  if (json.is_array()) {
    std::vector<Value> items;
    for (const OrderedJson& element : json) {
      VARVE_TRY(Value item, FromJson(element, depth + 1));
      items.push_back(std::move(item));
    }
    return Value::MakeList(std::move(items));
  }
  Variables entries;
  for (const auto& [key, element] : json.items()) {
    VARVE_TRY(Value item, FromJson(element, depth + 1));
    entries.emplace_back(key, std::move(item));
  }
  return Value::MakeDict(std::move(entries), false);
}

Result<Value> FromMessages(const ChatMessages& messages, size_t* num_bytes) {
  std::vector<Value> list;
  list.reserve(messages.size());
  for (const ChatMessage& message : messages) {
    *num_bytes += message.role.size() + message.content.size();
    VARVE_TRY(Value dict,
              Value::MakeDict({{"role", Value(Repaired(message.role))},
                               {"content", Value(Repaired(message.content))}},
                              false));
    list.push_back(std::move(dict));
  }
  return Value::MakeList(std::move(list));
}

}  // namespace

struct ChatTemplate::Parsed {
  std::vector<jinja::Statement> body;
};

ChatTemplate::ChatTemplate(std::shared_ptr<const Parsed> parsed) : parsed_(std::move(parsed)) {}

Result<ChatTemplate> ChatTemplate::Parse(std::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    return Error{ErrorCode::kInvalidArgument, "The chat template is longer than 1 MB."};
  }
  if (!IsValidUtf8(source)) {
    return Error{ErrorCode::kInvalidArgument, "The chat template is not UTF-8."};
  }
  auto parsed = std::make_shared<Parsed>();
  VARVE_TRY(parsed->body, jinja::ParseTemplate(source));
  return ChatTemplate(std::move(parsed));
}

Result<std::string> ChatTemplate::Render(const ChatMessages& messages,
                                         const RenderOptions& options) const {
  const OrderedJson more = OrderedJson::parse(options.variables_json, nullptr, false);
  if (!more.is_object()) {
    return Error{ErrorCode::kInvalidArgument,
                 "The variables of the chat template are not a JSON object."};
  }
  size_t num_bytes = options.variables_json.size();
  Variables variables;
  VARVE_TRY(Value list, FromMessages(messages, &num_bytes));
  variables.emplace_back("messages", std::move(list));
  variables.emplace_back("add_generation_prompt", Value(options.add_generation_prompt));
  variables.emplace_back("bos_token", Value(options.bos_token));
  variables.emplace_back("eos_token", Value(options.eos_token));
  for (const auto& [key, element] : more.items()) {
    VARVE_TRY(Value value, FromJson(element, 0));
    const auto same = std::find_if(
        variables.begin(), variables.end(), [&](const auto& v) { return v.first == key; });
    if (same != variables.end()) {
      same->second = std::move(value);
    } else {
      variables.emplace_back(key, std::move(value));
    }
  }
  const jinja::EvaluatorLimits limits{options.max_output_bytes,
                                      kMinBudgetUnits + kBudgetUnitsPerByte * num_bytes};
  return jinja::Evaluator(std::move(variables), options.now_unix_s, limits).Render(parsed_->body);
}

}  // namespace varve
