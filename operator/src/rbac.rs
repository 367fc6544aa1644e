//! The rights of the operator itself; the chart's RBAC is made from these and the actions' own.
