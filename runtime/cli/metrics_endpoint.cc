// SPDX-License-Identifier: Apache-2.0
// Counters and gauges as families of metrics.
#include "runtime/cli/metrics_endpoint.h"

#include <fmt/core.h>
#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>

#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "libos/base/status.h"

namespace spiritos::cli {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

constexpr std::string_view kPrefix = "spiritos_memd_";

MetricFamily Gauge(std::string_view name, std::string_view help, uint64_t value) {
  ClientMetric metric;
  metric.gauge.value = static_cast<double>(value);
  return {fmt::format("{}{}", kPrefix, name), std::string(help), MetricType::Gauge, {metric}};
}

// One counter for each tenant.
template <typename Value>
MetricFamily TenantCounter(std::string_view name, std::string_view help,
                           const std::vector<TenantFigures>& tenants, Value value_of) {
  MetricFamily family{
      fmt::format("{}{}_total", kPrefix, name), std::string(help), MetricType::Counter, {}};
  for (const TenantFigures& tenant : tenants) {
    ClientMetric metric;
    metric.label = {{"tenant", tenant.name}};
    metric.counter.value = value_of(tenant);
    family.metric.push_back(std::move(metric));
  }
  return family;
}

// One gauge for each tenant.
template <typename Value>
MetricFamily TenantGauge(std::string_view name, std::string_view help,
                         const std::vector<TenantFigures>& tenants, Value value_of) {
  MetricFamily family{fmt::format("{}{}", kPrefix, name), std::string(help), MetricType::Gauge, {}};
  for (const TenantFigures& tenant : tenants) {
    ClientMetric metric;
    metric.label = {{"tenant", tenant.name}};
    metric.gauge.value = value_of(tenant);
    family.metric.push_back(std::move(metric));
  }
  return family;
}

class ServerMetrics : public prometheus::Collectable {
 public:
  explicit ServerMetrics(const MemoryServer& server) : server_(server) {}

  std::vector<MetricFamily> Collect() const override {
    std::vector<MetricFamily> families;
    for (size_t i = 0; i < static_cast<size_t>(ServerCounter::kCount); ++i) {
      const auto counter = static_cast<ServerCounter>(i);
      ClientMetric metric;
      metric.counter.value = static_cast<double>(server_.counters().Get(counter));
      families.push_back({fmt::format("{}{}_total", kPrefix, InfoOf(counter).name),
                          std::string(InfoOf(counter).help),
                          MetricType::Counter,
                          {metric}});
    }
    const SlabStore& store = server_.store();
    families.push_back(Gauge("slabs", "slabs of 64 MiB that are served", server_.slabs()));
    families.push_back(Gauge("slabs_free", "slabs that tenants may still rent", store.free()));
    families.push_back(Gauge("slabs_ready", "free slabs that are cleared", store.ready()));
    families.push_back(Gauge("slabs_rented", "slabs that tenants rent", store.rented()));
    families.push_back(
        Gauge("slabs_asked_back", "slabs that tenants rent and should give back", store.excess()));
    families.push_back(
        Gauge("slabs_restored", "slabs found again when the server started", server_.restored()));
    families.push_back(Gauge("open_connections", "connections now", server_.connections()));
    families.push_back(
        Gauge("clients", "spaces that are connected or hold slabs", server_.clients()));
    const std::vector<TenantFigures> tenants = server_.tenants();
    families.push_back(TenantGauge("tenant_slabs", "slabs that the tenant rents", tenants,
                                   [](const TenantFigures& t) { return double(t.slabs); }));
    families.push_back(TenantGauge("tenant_leases", "spaces of the tenant that hold slabs", tenants,
                                   [](const TenantFigures& t) { return double(t.clients); }));
    families.push_back(TenantGauge(
        "tenant_lease_left_seconds", "until the tenant's most silent space loses its slabs",
        tenants, [](const TenantFigures& t) { return double(t.lease_left_ms) / 1e3; }));
    families.push_back(TenantCounter("tenant_bytes", "bytes to and from the tenant over TCP",
                                     tenants,
                                     [](const TenantFigures& t) { return double(t.bytes); }));
    families.push_back(TenantCounter(
        "tenant_pauses", "times that a connection of the tenant had to wait for its bandwidth",
        tenants, [](const TenantFigures& t) { return double(t.pauses); }));
    return families;
  }

 private:
  const MemoryServer& server_;
};

}  // namespace

struct MetricsEndpoint::Parts {
  Parts(const HostPort& place, const MemoryServer& server)
      : metrics(std::make_shared<ServerMetrics>(server)), exposer(place.ToString(), 1) {
    exposer.RegisterCollectable(metrics);  // Which keeps it only as long as we do.
  }
  const std::shared_ptr<ServerMetrics> metrics;
  prometheus::Exposer exposer;
};

MetricsEndpoint::MetricsEndpoint(HostPort place, std::unique_ptr<Parts> parts)
    : place_(std::move(place)), parts_(std::move(parts)) {}

MetricsEndpoint::~MetricsEndpoint() = default;

absl::StatusOr<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Create(
    const HostPort& place, const MemoryServer& server) {
  try {
    auto parts = std::make_unique<Parts>(place, server);
    HostPort bound = place;
    bound.port = parts->exposer.GetListeningPorts().at(0);
    return std::unique_ptr<MetricsEndpoint>(new MetricsEndpoint(bound, std::move(parts)));
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        fmt::format("cannot listen on {}, perhaps another program does: {} (--metrics)",
                    place.ToString(), error.what()));
  }
}

}  // namespace spiritos::cli
