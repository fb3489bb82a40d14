//! Labels on every object that the operator makes.
//!
//! [`INSTANCE`], [`NAME`], [`COMPONENT`] and [`SHARD`] form the selectors, which Kubernetes does not allow to change:
//! add labels freely, but never to the selectors.

/// The application: always [`NAME_VALUE`].
pub const NAME: &str = "app.kubernetes.io/name";
/// Value of [`NAME`].
pub const NAME_VALUE: &str = "cachecluster";
/// The name of the `CacheCluster` that owns the object.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// Which part of a cache cluster the object belongs to: [`COMPONENT_REDIS`] or [`COMPONENT_API`].
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// Value of [`COMPONENT`] for Redis pods and what serves them.
pub const COMPONENT_REDIS: &str = "redis";
/// Value of [`COMPONENT`] for the HTTP API.
pub const COMPONENT_API: &str = "api";
/// Who manages the object: always [`MANAGED_BY_VALUE`]. The operator's watches select on it.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`].
pub const MANAGED_BY_VALUE: &str = "cachecluster-operator";
/// The larger application that the object is part of: always [`NAME_VALUE`].
pub const PART_OF: &str = "app.kubernetes.io/part-of";
/// Index of the shard, counted from 0, on Redis pods, StatefulSets, volumes and disruption budgets.
pub const SHARD: &str = "cachecluster.io/shard";
/// On Redis pods, while the cluster has one shard: [`ROLE_PRIMARY`] marks the pod that the primary's Service selects.
pub const ROLE: &str = "cachecluster.io/role";
/// Value of [`ROLE`].
pub const ROLE_PRIMARY: &str = "primary";
