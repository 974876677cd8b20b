// libyaml (Debian's libyaml-dev), with what Swift does not import of it: the events' union, flattened.
#pragma once
#include <sys/types.h>

#include <yaml.h>

static inline const char *twill_yaml_scalar(const yaml_event_t *event) { return (const char *)event->data.scalar.value; }
static inline size_t twill_yaml_scalar_length(const yaml_event_t *event) { return event->data.scalar.length; }
static inline int twill_yaml_scalar_is_plain(const yaml_event_t *event) {
  return event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
}
