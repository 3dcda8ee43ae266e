// Templates render what Jinja2 renders, refuse what is not supported by name, and cannot run away.
#include "coordinator/chat_template/chat_template.h"

#include <fstream>
#include <iterator>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <nlohmann/json.hpp>

namespace varve {
namespace {

using testing::HasSubstr;

constexpr int64_t kGoldenTime = 1'700'000'000;  // the goldens' strftime_now

nlohmann::ordered_json ReadGoldens() {
  const std::string path = VARVE_SOURCE_DIR "/tests/golden/tokenizers/chat_goldens.json";
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return nlohmann::ordered_json::parse(std::string(std::istreambuf_iterator<char>(file), {}));
}

Result<std::string> RenderText(const std::string& source,
                               const std::string& variables_json = "{}") {
  auto parsed = ChatTemplate::Parse(source);
  if (!parsed) {
    return parsed.error();
  }
  RenderOptions options;
  options.variables_json = variables_json;
  options.max_output_bytes = 1 << 20;
  return parsed->Render({{"user", "hi"}}, options);
}

// The message of what must fail, with its code.
std::string FailureOf(const std::string& source,
                      ErrorCode code,
                      const std::string& variables_json = "{}") {
  const auto rendered = RenderText(source, variables_json);
  if (rendered) {
    ADD_FAILURE() << source << " gives " << *rendered;
    return "";
  }
  EXPECT_EQ(ErrorName(rendered.error().code), ErrorName(code)) << rendered.error().message;
  return rendered.error().message;
}

TEST(ChatTemplateTest, RendersLikeJinja2) {
  const auto goldens = ReadGoldens();
  ASSERT_GT(goldens.size(), 80u);
  for (const auto& golden : goldens) {
    SCOPED_TRACE(golden["name"]);
    const auto source = golden["template"].get<std::string>();
    auto parsed = ChatTemplate::Parse(source);
    ASSERT_TRUE(parsed.has_value()) << parsed.error().message;
    ChatMessages messages;
    for (const auto& message : golden["messages"]) {
      messages.push_back({message["role"], message["content"]});
    }
    RenderOptions options;
    options.bos_token = "<s>";
    options.eos_token = "</s>";
    options.variables_json = golden["variables"].dump();
    options.now_unix_s = kGoldenTime;
    const auto rendered = parsed->Render(messages, options);
    if (golden.contains("expected")) {
      ASSERT_TRUE(rendered.has_value()) << rendered.error().message;
      EXPECT_EQ(*rendered, golden["expected"].get<std::string>()) << source;
    } else {
      ASSERT_FALSE(rendered.has_value()) << *rendered;
      EXPECT_EQ(ErrorName(rendered.error().code), "InvalidArgument");
      if (source.find("raise_exception") != std::string::npos) {
        EXPECT_EQ(rendered.error().message, golden["error"].get<std::string>());
      }
    }
  }
}

TEST(ChatTemplateTest, RefusesUnknownConstructsByNameWhenParsed) {
  const std::pair<const char*, const char*> cases[] = {
      {"{% include 'x' %}", "the tag 'include' (line 1)"},
      {"\n\n{% raw %}{% endraw %}", "the tag 'raw' (line 3)"},
      {"{% call f() %}{% endcall %}", "the tag 'call'"},
      {"{{ x | frobnicate }}", "the filter 'frobnicate'"},
      {"{{ x is frobnicated }}", "the test 'frobnicated'"},
      {"{{ x.append(1) }}", "the method 'append'"},
      {"{{ cycler(1) }}", "calls 'cycler'"},
      {"{% for x in y recursive %}{% endfor %}", "a recursive loop"},
      {"{% set a, b = 1, 2 %}", "an assignment to several names"},
      {"{% set a | upper %}x{% endset %}", "a filtered block assignment"},
      {"{{ 2 ** 3 }}", "the operator **"},
      {"{{ 1 < 2 < 3 }}", "a chained comparison"},
      {"{{ range(*x) }}", "unpacked arguments"},
      {"{{ x[0](1) }}", "a call of what has no name"},
      {"{{ (x | list)(1) }}", "a call of what has no name"},
  };
  for (const auto& [source, expected] : cases) {
    const auto parsed = ChatTemplate::Parse(source);
    ASSERT_FALSE(parsed.has_value()) << source;
    EXPECT_EQ(ErrorName(parsed.error().code), "Unsupported") << source;
    EXPECT_THAT(parsed.error().message, HasSubstr(expected)) << source;
  }
}

TEST(ChatTemplateTest, RefusesWhatIsNoTemplate) {
  const std::pair<const char*, const char*> cases[] = {
      {"{{ a", "line 1: a tag is not closed"},
      {"{# a", "a comment is not closed"},
      {"\n{{ 'a }}", "line 2: a string is not closed"},
      {"{{ 'a\\", "a string is not closed"},
      {"{{ '\\ud800' }}", "bad escape"},
      {"{{ ? }}", "unexpected character '?'"},
      {"{{ a) }}", "')' closes nothing"},
      {"{{ }}", "an expression is missing"},
      {"{{ a b }}", "the end of a tag is missing"},
      {"{{ a[1 2] }}", "']' is missing"},
      {"{{ a[] }}", "an index is missing"},
      {"{{ a[1:2:3:4] }}", "too many parts"},
      {"{{ a.1 }}", "a name is missing"},
      {"{{ f(a=1, 2) }}", "a plain argument follows a named one"},
      {"{{ 99999999999999999999 }}", "a number is too large"},
      {"{% if a %}", "'endif' is missing"},
      {"{% if a %}{% endfor %}", "'endif' is missing"},
      {"{% for a b %}{% endfor %}", "'in' is missing"},
      {"{% endif %}", "'endif' closes nothing"},
      {"{% break %}", "'break' stands outside a loop"},
      {"{% macro f(1) %}{% endmacro %}", "a name is missing"},
      {"{{ {1 2} }}", "':' is missing"},
      {"\xFF", "is not UTF-8"},
  };
  for (const auto& [source, expected] : cases) {
    const auto parsed = ChatTemplate::Parse(source);
    ASSERT_FALSE(parsed.has_value()) << source;
    EXPECT_EQ(ErrorName(parsed.error().code), "InvalidArgument") << source;
    EXPECT_THAT(parsed.error().message, HasSubstr(expected)) << source;
  }
}

TEST(ChatTemplateTest, SaysWhatWentWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {"{{ a.b }}", "'a' is undefined"},
      {"{{ a[0] }}", "'a' is undefined"},
      {"{{ a + 1 }}", "'a' is undefined"},
      {"{{ 1 + a }}", "'a' is undefined"},
      {"{{ a.strip() }}", "the method 'strip' of 'a', which is undefined"},
      {"{{ 1 .strip() }}", "the method 'strip' of a number"},
      {"{{ 'x'.get(1) }}", "the method 'get' of a string"},
      {"{{ {}.strip() }}", "the method 'strip' of a dict"},
      {"{{ [] - 1 }}", "it applies - to a list and a number"},
      {"{{ 1 % 0 }}", "it divides by zero"},
      {"{{ 1.5 / 0 }}", "it divides by zero"},
      {"{{ 9223372036854775807 + 1 }}", "a number is too large"},
      {"{{ 1 < 'a' }}", "it compares a number with a string"},
      {"{{ 1 in 5 }}", "it looks for something in a number"},
      {"{{ 1 in 'a' }}", "it looks for a number in a string"},
      {"{% for a, b in [1] %}{% endfor %}", "the loop wants lists of 2 values"},
      {"{% for a in none %}{% endfor %}", "it loops over none"},
      {"{% set a = 1 %}{% set a.b = 2 %}", "'a' is not a namespace"},
      {"{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "the macro 'm' has too many arguments"},
      {"{% macro m(a) %}{% endmacro %}{{ m(b=2) }}", "the macro 'm' has no argument 'b'"},
      {"{% set m = 1 %}{{ m() }}", "it calls 'm', which is a number"},
      {"{{ {1: 2} }}", "a key of a dict is a number"},
      {"{{ 'a'[::0] }}", "a slice has the step 0"},
      {"{{ 'a'['x':] }}", "a part of a slice is no integer"},
      {"{{ 1[1:] }}", "it slices a number"},
      {"{{ 'a'.split('') }}", "split wants a string, not empty"},
      {"{{ 'a'.split(1) }}", "split wants a string"},
      {"{{ 'a b'.rsplit(None, 1) }}", "rsplit at white space"},
      {"{{ 'a'.replace('', 'b') }}", "it replaces the empty string"},
      {"{{ 'a'.replace(1, 'b') }}", "the method 'replace' wants a string"},
      {"{{ 'a'.startswith() }}", "startswith and endswith want a string"},
      {"{{ 'a'.endswith(1) }}", "startswith and endswith want strings"},
      {"{{ ','.join() }}", "join wants one list"},
      {"{{ {}.get() }}", "get wants a key"},
      {"{{ 'a' | trim(1, 2) }}", "trim has too many arguments"},
      {"{{ 'a' | trim(x=1) }}", "trim has no argument 'x'"},
      {"{{ 1 | length }}", "it takes the length of a number"},
      {"{{ 1 | items }}", "it takes the items of a number"},
      {"{{ 1 | dictsort }}", "it sorts a number as a dict"},
      {"{{ 'a' | abs }}", "it takes the absolute value of a string"},
      {"{{ range | tojson }}", "tojson cannot write a function"},
      {"{{ 1 | tojson(indent=99) }}", "indent too far"},
      {"{{ 1 | tojson(ensure_ascii=true) }}", "ASCII only"},
      {"{{ 'a' | indent(99) }}", "it indents too far"},
      {"{{ [1] | selectattr }}", "selectattr wants an attribute"},
      {"{{ [1] | select('nope') }}", "there is no test 'nope'"},
      {"{{ [1] | map('nope') }}", "there is no filter 'nope'"},
      {"{{ [1] | map('map') }}", "it maps the filter map"},
      {"{{ 1 is divisibleby 0 }}", "divisibleby wants integers"},
      {"{{ 1 is defined(2) }}", "the test 'defined' wants 0 arguments"},
      {"{{ range() }}", "range wants a stop"},
      {"{{ range('a') }}", "range wants small integers"},
      {"{{ range(1, 2, 0) }}", "a step that is not 0"},
      {"{{ dict(1) }}", "dict wants named arguments"},
      {"{{ namespace(1) }}", "namespace wants a dict"},
      {"{{ namespace({}, 2) }}", "namespace has too many arguments"},
      {"{{ strftime_now() }}", "strftime_now wants a format"},
      {"{{ strftime_now('%Q') }}", "strftime_now has a bad format"},
      {"{{ strftime_now('x' * 300) }}", "a format that is too long"},
      {"{{ raise_exception() }}", "The chat template refuses."},
  };
  for (const auto& [source, expected] : cases) {
    EXPECT_THAT(FailureOf(source, ErrorCode::kInvalidArgument), HasSubstr(expected)) << source;
  }
}

TEST(ChatTemplateTest, HostileTemplatesHitALimit) {
  const std::string too_much = "too much work";
  const std::string loops =
      "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor "
      "%}{% endfor %}{% endfor %}";
  EXPECT_THAT(FailureOf(loops, ErrorCode::kInvalidArgument), HasSubstr(too_much));
  const std::string doubling =
      "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s "
      "%}{% endfor %}";
  EXPECT_THAT(FailureOf(doubling, ErrorCode::kInvalidArgument), HasSubstr(too_much));
  const std::string list_doubling =
      "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% "
      "endfor %}";
  EXPECT_THAT(FailureOf(list_doubling, ErrorCode::kInvalidArgument), HasSubstr(too_much));
  EXPECT_THAT(FailureOf("{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
                        ErrorCode::kInvalidArgument),
              HasSubstr("output is too long"));
  EXPECT_THAT(FailureOf("{{ 'xx' * 9999999999 }}", ErrorCode::kInvalidArgument),
              HasSubstr("a string is too long"));
  EXPECT_THAT(FailureOf("{{ range(999999) }}", ErrorCode::kInvalidArgument),
              HasSubstr("range that is too long"));
  EXPECT_THAT(
      FailureOf("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", ErrorCode::kInvalidArgument),
      HasSubstr("macros that call themselves"));
  EXPECT_THAT(FailureOf("{% for i in range(99) %}{% set x = namespace() %}{% endfor %}",
                        ErrorCode::kInvalidArgument),
              HasSubstr("too many namespaces"));
  const std::string nested_lists =
      "{% set ns = namespace(x=[]) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}{% endfor %}";
  EXPECT_THAT(FailureOf(nested_lists, ErrorCode::kInvalidArgument), HasSubstr("nest too deep"));
  const std::string itself =
      "{% set ns = namespace() %}{% for i in range(99) %}{% set ns.x = ns %}{% endfor %}";
  EXPECT_THAT(FailureOf(itself, ErrorCode::kInvalidArgument),
              HasSubstr("namespaces nest too deep"));
  std::string dicts =
      "{% set ns = namespace(x={}) %}{% for i in range(99) %}{% set ns.x = {'a': ns.x} %}{% endfor "
      "%}";
  EXPECT_THAT(FailureOf(dicts, ErrorCode::kInvalidArgument), HasSubstr("nest too deep"));
}

TEST(ChatTemplateTest, HostileSourcesHitALimit) {
  const auto repeat = [](const std::string& text, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) {
      out += text;
    }
    return out;
  };
  EXPECT_THAT(FailureOf("{{ " + repeat("(", 200) + "1" + repeat(")", 200) + " }}",
                        ErrorCode::kInvalidArgument),
              HasSubstr("it nests too deep"));
  EXPECT_THAT(FailureOf("{{ " + repeat("not ", 200) + "1 }}", ErrorCode::kInvalidArgument),
              HasSubstr("it nests too deep"));
  EXPECT_THAT(FailureOf("{{ " + repeat("-", 200) + "1 }}", ErrorCode::kInvalidArgument),
              HasSubstr("it nests too deep"));
  EXPECT_THAT(FailureOf(repeat("{% if 1 %}", 200), ErrorCode::kInvalidArgument),
              HasSubstr("it nests too deep"));
  EXPECT_THAT(FailureOf("{% if 1 %}" + repeat("{% elif 1 %}", 200), ErrorCode::kInvalidArgument),
              HasSubstr("it nests too deep"));
  EXPECT_THAT(FailureOf("{{ 1" + repeat(" + 1", 600) + " }}", ErrorCode::kInvalidArgument),
              HasSubstr("a tag has too many parts"));
  EXPECT_THAT(FailureOf(repeat("x", 2 << 20), ErrorCode::kInvalidArgument),
              HasSubstr("longer than 1 MB"));
}

TEST(ChatTemplateTest, LongMessagesAreNoHostileTemplate) {
  auto parsed =
      ChatTemplate::Parse("{% for m in messages %}[{{ m['content'] | trim }}]{% endfor %}");
  ASSERT_TRUE(parsed.has_value());
  const std::string content(4 << 20, 'x');
  const auto rendered = parsed->Render({{"user", content}, {"assistant", content}}, {});
  ASSERT_TRUE(rendered.has_value()) << rendered.error().message;
  EXPECT_EQ(*rendered, "[" + content + "][" + content + "]");
}

TEST(ChatTemplateTest, VariablesAreJsonAndWin) {
  EXPECT_EQ(
      RenderText("{{ bos_token }}{{ x.y[0] }}", R"({"bos_token": "B", "x": {"y": [7]}})").value(),
      "B7");
  EXPECT_EQ(RenderText("{{ a }} {{ b }}", R"({"a": 18446744073709551615, "b": 1.5})").value(),
            "1.8446744073709552e+19 1.5");
  EXPECT_THAT(FailureOf("x", ErrorCode::kInvalidArgument, "[1]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(FailureOf("x", ErrorCode::kInvalidArgument, "{"), HasSubstr("not a JSON object"));
  const std::string deep = std::string(100, '[') + std::string(100, ']');
  EXPECT_THAT(FailureOf("x", ErrorCode::kInvalidArgument, "{\"a\":" + deep + "}"),
              HasSubstr("nests too deep"));
}

TEST(ChatTemplateTest, RepairsMessagesThatAreNoText) {
  auto parsed = ChatTemplate::Parse("{{ messages[0].content | trim }}");
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(parsed->Render({{"user", "a\xFF\xE6\xB2"}}, {}).value(), "a\xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST(ChatTemplateTest, TheClockIsTheCallers) {
  auto parsed = ChatTemplate::Parse("{{ strftime_now('%d %b %Y') }}");
  ASSERT_TRUE(parsed.has_value());
  RenderOptions options;
  options.now_unix_s = 86'400;
  EXPECT_EQ(parsed->Render({}, options).value(), "02 Jan 1970");
}

}  // namespace
}  // namespace varve
