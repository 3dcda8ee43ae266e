#include "coordinator/chat_template/jinja_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace varve::jinja {
namespace {

// The shortest digits that give the number back, laid out as Python does.
std::string FloatText(double number) {
  if (std::isnan(number)) {
    return "nan";
  }
  if (std::isinf(number)) {
    return number < 0 ? "-inf" : "inf";
  }
  char buffer[32];
  const double magnitude = std::fabs(number);
  const bool scientific = magnitude != 0 && (magnitude < 1e-4 || magnitude >= 1e16);
  const auto format = scientific ? std::chars_format::scientific : std::chars_format::fixed;
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), number, format);
  std::string text(buffer, end.ptr);
  if (!scientific && text.find('.') == std::string::npos) {
    text += ".0";
  }
  return text;
}

// A string as Python source.
std::string Quoted(const std::string& text) {
  const bool has_single = text.find('\'') != std::string::npos;
  const char quote = has_single && text.find('"') == std::string::npos ? '"' : '\'';
  std::string out(1, quote);
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == quote || c == '\\') {
      out += {'\\', c};
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7F) {
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\x%02x", byte);
      out += escape;
    } else {
      out += c;
    }
  }
  return out + quote;
}

std::string SourceText(const Value& value);

std::string DictText(const Dict& dict) {
  if (dict.is_namespace) {
    return "<Namespace>";
  }
  std::string out = "{";
  for (const auto& [key, value] : dict.entries) {
    if (out.size() > 1) {
      out += ", ";
    }
    out += Quoted(key) + ": " + SourceText(value);
  }
  return out + "}";
}

std::string SourceText(const Value& value) {
  return value.is_string() ? Quoted(value.as_string()) : value.ToText();
}

void AppendJsonString(const std::string& text, std::string* out) {
  out->push_back('"');
  for (const char c : text) {
    switch (c) {
      case '"':
        *out += "\\\"";
        break;
      case '\\':
        *out += "\\\\";
        break;
      case '\n':
        *out += "\\n";
        break;
      case '\r':
        *out += "\\r";
        break;
      case '\t':
        *out += "\\t";
        break;
      case '\b':
        *out += "\\b";
        break;
      case '\f':
        *out += "\\f";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          char escape[8];
          std::snprintf(escape, sizeof(escape), "\\u%04x", static_cast<unsigned>(c));
          *out += escape;
        } else {
          out->push_back(c);
        }
    }
  }
  out->push_back('"');
}

struct JsonWriter {
  int indent;
  std::string* out;

  void NewLine(int depth) const {
    if (indent < 0) {
      return;
    }
    out->push_back('\n');
    out->append(static_cast<size_t>(indent) * static_cast<size_t>(depth), ' ');
  }
  void Separate(bool first, int depth) const {
    if (!first) {
      *out += indent < 0 ? ", " : ",";
    }
    NewLine(depth);
  }

  Result<void> WriteContainer(const Value& value, int depth) const {
    const bool is_list = value.is_list();
    const size_t size = is_list ? value.as_list().size() : value.as_dict().entries.size();
    out->push_back(is_list ? '[' : '{');
    for (size_t i = 0; i < size; ++i) {
      Separate(i == 0, depth + 1);
      if (is_list) {
        VARVE_RETURN_IF_ERROR(Write(value.as_list()[i], depth + 1));
        continue;
      }
      const auto& [key, item] = value.as_dict().entries[i];
      AppendJsonString(key, out);
      *out += ": ";
      VARVE_RETURN_IF_ERROR(Write(item, depth + 1));
    }
    if (size > 0) {
      NewLine(depth);
    }
    out->push_back(is_list ? ']' : '}');
    return {};
  }

  Result<void> Write(const Value& value, int depth) const {
    if (value.is_none()) {
      *out += "null";
    } else if (value.is_bool()) {
      *out += value.as_bool() ? "true" : "false";
    } else if (value.is_int() || value.is_float()) {
      *out += value.ToText();
    } else if (value.is_string()) {
      AppendJsonString(value.as_string(), out);
    } else if (value.is_list() || (value.is_dict() && !value.as_dict().is_namespace)) {
      return WriteContainer(value, depth);
    } else {
      return TemplateError("tojson cannot write " + std::string(value.KindName()));
    }
    return {};
  }
};

}  // namespace

Error TemplateError(std::string_view why) {
  return Error{ErrorCode::kInvalidArgument,
               "The chat template is wrong: " + std::string(why) + "."};
}

const Value* Dict::Find(std::string_view key) const {
  for (const auto& [name, value] : entries) {
    if (name == key) {
      return &value;
    }
  }
  return nullptr;
}

void Dict::Set(std::string_view key, Value value) {
  for (auto& [name, old] : entries) {
    if (name == key) {
      old = std::move(value);
      return;
    }
  }
  entries.emplace_back(key, std::move(value));
}

Value::Value(std::string text) : state_(std::make_shared<const std::string>(std::move(text))) {}

Result<Value> Value::MakeList(std::vector<Value> items) {
  auto list = std::make_shared<List>();
  for (const Value& item : items) {
    list->depth = std::max(list->depth, item.depth() + 1);
  }
  if (list->depth > kMaxValueDepth) {
    return TemplateError("its lists nest too deep");
  }
  list->items = std::move(items);
  Value value;
  value.state_ = std::shared_ptr<const List>(std::move(list));
  return value;
}

Result<Value> Value::MakeDict(std::vector<std::pair<std::string, Value>> entries,
                              bool is_namespace) {
  auto dict = std::make_shared<Dict>();
  dict->is_namespace = is_namespace;
  for (auto& [key, item] : entries) {
    dict->depth = std::max(dict->depth, item.depth() + 1);
    dict->Set(key, std::move(item));
  }
  if (dict->depth > kMaxValueDepth) {
    return TemplateError("its dicts nest too deep");
  }
  Value value;
  value.state_ = std::move(dict);
  return value;
}

bool Value::IsTrue() const {
  if (is_undefined() || is_none()) {
    return false;
  }
  if (is_number()) {
    return as_double() != 0;
  }
  if (is_string()) {
    return !as_string().empty();
  }
  if (is_list()) {
    return !as_list().empty();
  }
  if (is_dict()) {
    return as_dict().is_namespace || !as_dict().entries.empty();
  }
  return true;
}

int Value::depth() const {
  if (is_list()) {
    return std::get<std::shared_ptr<const List>>(state_)->depth;
  }
  return is_dict() ? as_dict().depth : 0;
}

std::string_view Value::KindName() const {
  if (is_undefined()) {
    return "an undefined value";
  }
  if (is_none()) {
    return "none";
  }
  if (is_bool()) {
    return "a boolean";
  }
  if (is_number()) {
    return "a number";
  }
  if (is_string()) {
    return "a string";
  }
  if (is_list()) {
    return "a list";
  }
  if (is_dict()) {
    return as_dict().is_namespace ? "a namespace" : "a dict";
  }
  return "a function";
}

std::string Value::ToText() const {
  if (is_undefined()) {
    return "";
  }
  if (is_none()) {
    return "None";
  }
  if (is_bool()) {
    return as_bool() ? "True" : "False";
  }
  if (is_int()) {
    return std::to_string(as_int());
  }
  if (is_float()) {
    return FloatText(as_double());
  }
  if (is_string()) {
    return as_string();
  }
  if (is_dict()) {
    return DictText(as_dict());
  }
  if (!is_list()) {
    return "<function>";
  }
  std::string out = "[";
  for (const Value& item : as_list()) {
    if (out.size() > 1) {
      out += ", ";
    }
    out += SourceText(item);
  }
  return out + "]";
}

bool Equal(const Value& left, const Value& right) {
  if (left.is_number() && right.is_number()) {
    if (left.is_float() || right.is_float()) {
      return left.as_double() == right.as_double();
    }
    return left.as_int() == right.as_int();
  }
  if (left.is_string() && right.is_string()) {
    return left.as_string() == right.as_string();
  }
  if (left.is_list() && right.is_list()) {
    const auto& a = left.as_list();
    const auto& b = right.as_list();
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), Equal);
  }
  if (left.is_dict() && right.is_dict()) {
    const Dict& a = left.as_dict();
    const Dict& b = right.as_dict();
    if (a.is_namespace || b.is_namespace) {
      return &a == &b;
    }
    if (a.entries.size() != b.entries.size()) {
      return false;
    }
    return std::all_of(a.entries.begin(), a.entries.end(), [&](const auto& entry) {
      const Value* other = b.Find(entry.first);
      return other != nullptr && Equal(entry.second, *other);
    });
  }
  if (left.macro() != nullptr && left.macro() == right.macro()) {
    return true;
  }
  return (left.is_none() && right.is_none()) || (left.is_undefined() && right.is_undefined());
}

Result<int> Compare(const Value& left, const Value& right) {
  if (left.is_number() && right.is_number()) {
    if (left.is_float() || right.is_float()) {
      return left.as_double() < right.as_double()   ? -1
             : left.as_double() > right.as_double() ? 1
                                                    : 0;
    }
    return left.as_int() < right.as_int() ? -1 : left.as_int() > right.as_int() ? 1 : 0;
  }
  if (left.is_string() && right.is_string()) {
    return left.as_string().compare(right.as_string());
  }
  return TemplateError("it compares " + std::string(left.KindName()) + " with " +
                       std::string(right.KindName()));
}

Result<std::string> ToJson(const Value& value, int indent) {
  std::string out;
  VARVE_RETURN_IF_ERROR((JsonWriter{indent, &out}.Write(value, 0)));
  return out;
}

}  // namespace varve::jinja
