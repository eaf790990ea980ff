// SPDX-License-Identifier: Apache-2.0
// Reads case files, and says what is wrong with them.
#include "runtime/cli/arbiter_case.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "arbiter/utility_kinds.h"
#include "libos/base/status.h"

namespace spiritos::cli {
namespace {

using Json = nlohmann::json;
using Kind = UtilitySpec::Kind;
using Shape = MissRatio::Shape;

template <typename Value>
struct Named {
  std::string_view name;
  Value value;
};

constexpr std::array<Named<Kind>, 7> kKinds = {{{"quad", Kind::kQuad},
                                                {"linear", Kind::kLinear},
                                                {"cobb_douglas", Kind::kCobbDouglas},
                                                {"leontief", Kind::kLeontief},
                                                {"max", Kind::kMax},
                                                {"closed_loop", Kind::kClosedLoop},
                                                {"roofline", Kind::kRoofline}}};
constexpr std::array<Named<Shape>, 4> kShapes = {{{"exp", Shape::kExp},
                                                  {"power", Shape::kPower},
                                                  {"linear", Shape::kLinear},
                                                  {"knee", Shape::kKnee}}};

template <typename Names>
std::string Listed(const Names& names) {
  std::string list;
  for (const auto& named : names)
    fmt::format_to(std::back_inserter(list), "{}{}", list.empty() ? "" : ", ", named.name);
  return list;
}

// A range that a number has to be in; the ends that are open are excluded.
struct Range {
  double least;
  double most;
  bool open = false;
  std::string ToString() const {
    if (std::isinf(most)) return fmt::format("{} {:g}", open ? "above" : "at least", least);
    return fmt::format("{:g} to {:g}{}", least, most, open ? ", ends excluded" : "");
  }
};
constexpr Range kPositive{0, HUGE_VAL, true};
constexpr Range kNotNegative{0, HUGE_VAL};

absl::StatusOr<double> NumberOf(const Json& value, const std::string& where, const Range& range) {
  if (!value.is_number()) {
    return InvalidArgument("{} is {}, and should be a number, {}", where, value.dump(),
                           range.ToString());
  }
  const double number = value.get<double>();
  const bool inside = range.open ? number > range.least && number < range.most
                                 : number >= range.least && number <= range.most;
  if (!std::isfinite(number) || !inside) {
    return InvalidArgument("{} is {}, and should be {}", where, value.dump(), range.ToString());
  }
  return number;
}

struct Wanted {
  const char* key;
  double* to;
  Range range;
};

// Reads the numbers wanted of the object `from`, which is called `where`.
absl::Status ReadNumbers(const Json& from, const std::string& where,
                         std::initializer_list<Wanted> all) {
  for (const Wanted& wanted : all) {
    const std::string at = fmt::format("{}.{}", where, wanted.key);
    if (!from.is_object() || !from.contains(wanted.key)) {
      return InvalidArgument("{} is missing: add a number, {}", at, wanted.range.ToString());
    }
    SPIRITOS_ASSIGN_OR_RETURN(*wanted.to, NumberOf(from[wanted.key], at, wanted.range));
  }
  return absl::OkStatus();
}

template <typename Value, size_t kSize>
absl::StatusOr<Value> ReadName(const Json& from, const char* key, const std::string& where,
                               const std::array<Named<Value>, kSize>& names) {
  const std::string at = fmt::format("{}.{}", where, key);
  if (!from.is_object() || !from.contains(key)) {
    return InvalidArgument("{} is missing: one of {}", at, Listed(names));
  }
  const Json& value = from[key];
  for (const auto& named : names) {
    if (value.is_string() && value.get_ref<const std::string&>() == named.name) return named.value;
  }
  return InvalidArgument("{} is {}, and should be one of {}", at, value.dump(), Listed(names));
}

absl::StatusOr<MissRatio> ReadMisses(const Json& app, const std::string& where) {
  if (!app.contains("mrc")) return InvalidArgument("{}.mrc is missing: the miss ratio", where);
  const Json& from = app["mrc"];
  const std::string at = where + ".mrc";
  MissRatio misses;
  SPIRITOS_ASSIGN_OR_RETURN(misses.shape, ReadName(from, "shape", at, kShapes));
  SPIRITOS_RETURN_IF_ERROR(ReadNumbers(from, at, {{"m0", &misses.m0, kNotNegative}}));
  switch (misses.shape) {
    case Shape::kExp:
      SPIRITOS_RETURN_IF_ERROR(
          ReadNumbers(from, at, {{"s", &misses.s, kPositive}, {"m1", &misses.m1, kNotNegative}}));
      break;
    case Shape::kPower:
      SPIRITOS_RETURN_IF_ERROR(
          ReadNumbers(from, at, {{"s", &misses.s, kPositive}, {"a", &misses.a, kNotNegative}}));
      break;
    case Shape::kLinear:
      SPIRITOS_RETURN_IF_ERROR(ReadNumbers(from, at, {{"r", &misses.r, Range{0, 1}}}));
      break;
    case Shape::kKnee:
      SPIRITOS_RETURN_IF_ERROR(ReadNumbers(from, at,
                                           {{"k", &misses.k, kNotNegative},
                                            {"w", &misses.w, kPositive},
                                            {"m1", &misses.m1, kNotNegative}}));
      break;
  }
  return misses;
}

absl::StatusOr<std::unique_ptr<Utility>> ReadTable(const Json& app, const std::string& where) {
  const std::string at = where + ".grid.u";
  if (!app.contains("grid") || !app["grid"].is_object() || !app["grid"].contains("u")) {
    return InvalidArgument("{} is missing: a square of values", at);
  }
  const Json& rows = app["grid"]["u"];
  const size_t side = rows.is_array() ? rows.size() : 0;
  if (side < 2) return InvalidArgument("{} has {} rows, and should have 2 or more", at, side);
  std::vector<double> values;
  for (size_t i = 0; i < side; ++i) {
    const std::string row = fmt::format("{}[{}]", at, i);
    if (!rows[i].is_array() || rows[i].size() != side) {
      return InvalidArgument("{} should have {} values, as there are {} rows", row, side, side);
    }
    for (size_t j = 0; j < side; ++j) {
      SPIRITOS_ASSIGN_OR_RETURN(const double value,
                                NumberOf(rows[i][j], fmt::format("{}[{}]", row, j), kNotNegative));
      values.push_back(value);
    }
  }
  return std::make_unique<TableUtility>(side, std::move(values));
}

absl::StatusOr<std::unique_ptr<Utility>> ReadUtility(const Json& app, const std::string& where) {
  if (!app.is_object()) return InvalidArgument("{} is {}, no object", where, app.dump());
  if (app.contains("kind") && app["kind"] == "table") return ReadTable(app, where);
  UtilitySpec spec;
  SPIRITOS_ASSIGN_OR_RETURN(spec.kind, ReadName(app, "kind", where, kKinds));
  const Json none = Json::object();
  const Json& params = app.contains("params") ? app["params"] : none;
  const std::string at = where + ".params";
  switch (spec.kind) {
    case Kind::kQuad:
    case Kind::kMax:
      break;
    case Kind::kLinear:
      SPIRITOS_RETURN_IF_ERROR(ReadNumbers(
          params, at, {{"wc", &spec.cache, kNotNegative}, {"wb", &spec.bandwidth, kNotNegative}}));
      break;
    case Kind::kCobbDouglas:
      SPIRITOS_RETURN_IF_ERROR(ReadNumbers(params, at, {{"a", &spec.cache, Range{0, 1}}}));
      break;
    case Kind::kLeontief:
      SPIRITOS_RETURN_IF_ERROR(ReadNumbers(
          params, at, {{"c", &spec.cache, kPositive}, {"b", &spec.bandwidth, kPositive}}));
      break;
    case Kind::kClosedLoop:
      SPIRITOS_RETURN_IF_ERROR(ReadNumbers(
          params, at,
          {{"gamma", &spec.gamma, kNotNegative}, {"kappa", &spec.kappa, kNotNegative}}));
      break;
    case Kind::kRoofline:
      SPIRITOS_RETURN_IF_ERROR(
          ReadNumbers(params, at, {{"q", &spec.q, kPositive}, {"kappa", &spec.kappa, kPositive}}));
      break;
  }
  if (spec.kind == Kind::kClosedLoop || spec.kind == Kind::kRoofline) {
    SPIRITOS_ASSIGN_OR_RETURN(spec.misses, ReadMisses(app, where));
  }
  return std::make_unique<ParametricUtility>(spec);
}

absl::Status ReadBounds(const Json& bounds, Bounds* to) {
  constexpr std::array<const char*, 2> kKeys = {"c", "b"};
  for (const size_t r : {kCache, kBandwidth}) {
    const std::string at = fmt::format("bounds.{}", kKeys[r]);
    if (!bounds.is_object()) return InvalidArgument("bounds is {}, no object", bounds.dump());
    if (!bounds.contains(kKeys[r])) continue;
    const Json& pair = bounds[kKeys[r]];
    if (!pair.is_array() || pair.size() != 2) {
      return InvalidArgument("{} is {}, and should be [least, most]", at, pair.dump());
    }
    SPIRITOS_ASSIGN_OR_RETURN(to->minimum[r], NumberOf(pair[0], at + "[0]", Range{0, 1}));
    SPIRITOS_ASSIGN_OR_RETURN(to->maximum[r],
                              NumberOf(pair[1], at + "[1]", Range{to->minimum[r], 1}));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ArbiterCase> ParseArbiterCase(std::string_view text) {
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) return InvalidArgument("no JSON (NaN and Infinity are none, either)");
  if (!json.is_object() || !json.contains("apps") || !json["apps"].is_array()) {
    return InvalidArgument("apps is missing: an array with an object for each tenant");
  }
  const Json& apps = json["apps"];
  if (apps.empty()) return InvalidArgument("apps is empty: there is nobody to give anything");
  if (json.contains("n") && json["n"] != apps.size()) {
    return InvalidArgument("n is {}, but apps has {}: leave n out", json["n"].dump(), apps.size());
  }
  if (json.contains("weights") &&
      (!json["weights"].is_array() || json["weights"].size() != apps.size())) {
    return InvalidArgument("weights should be an array of {}, as many as there are apps",
                           apps.size());
  }
  ArbiterCase read;
  Bounds bounds;
  if (json.contains("bounds")) SPIRITOS_RETURN_IF_ERROR(ReadBounds(json["bounds"], &bounds));
  for (size_t i = 0; i < apps.size(); ++i) {
    const std::string where = fmt::format("apps[{}]", i);
    SPIRITOS_ASSIGN_OR_RETURN(std::unique_ptr<Utility> utility, ReadUtility(apps[i], where));
    Tenant tenant{utility.get(), 1, bounds};
    if (json.contains("weights")) {
      SPIRITOS_ASSIGN_OR_RETURN(
          tenant.weight, NumberOf(json["weights"][i], fmt::format("weights[{}]", i), kPositive));
    }
    const bool named = apps[i].contains("name") && apps[i]["name"].is_string();
    read.names.push_back(named ? apps[i]["name"].get<std::string>() : where);
    read.utilities.push_back(std::move(utility));
    read.tenants.push_back(tenant);
  }
  return read;
}

}  // namespace spiritos::cli
