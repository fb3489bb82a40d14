//! Every object of a namespace, whatever its kind.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Client, ResourceExt};

/// The kinds of namespaced objects that the API server has, apart from those that come and go by themselves.
#[derive(Clone, Debug)]
pub(crate) struct Kinds(Vec<ApiResource>);

/// One object as it stood: its kind and name, and what changes with it.
pub(crate) type Snapshot = BTreeMap<String, Mark>;

/// What changes when an object is made anew (`uid`) or written (`version`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// `metadata.uid`.
    pub(crate) uid: String,
    /// `metadata.resourceVersion`.
    pub(crate) version: String,
}

impl Mark {
    /// The mark that an object bears now.
    pub(crate) fn of(object: &impl ResourceExt) -> Self {
        Self {
            uid: object.uid().unwrap_or_default(),
            version: object.resource_version().unwrap_or_default(),
        }
    }
}

impl Kinds {
    /// Asks the API server.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn discover(client: &Client) -> Result<Self> {
        let discovery = Discovery::new(client.clone())
            .exclude(&["metrics.k8s.io", "events.k8s.io"])
            .run_aggregated()
            .await
            .context("asking which kinds there are")?;
        let kinds = discovery
            .groups()
            .flat_map(|group| group.recommended_resources())
            .filter(|(kind, able)| {
                able.scope == Scope::Namespaced
                    && able.supports_operation(verbs::LIST)
                    && kind.kind != "Event"
                    && kind.kind != "Lease"
            })
            .map(|(kind, _)| kind)
            .collect();
        Ok(Self(kinds))
    }

    /// Every object in a namespace that fits a label selector; an empty one fits all.
    ///
    /// # Errors
    /// When a kind cannot be listed.
    pub(crate) async fn snapshot(
        &self,
        client: &Client,
        namespace: &str,
        selector: &str,
    ) -> Result<Snapshot> {
        let lists = self.0.iter().map(|kind| async move {
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, kind);
            let listed = api
                .list_metadata(&ListParams::default().labels(selector))
                .await;
            match listed {
                Ok(list) => Ok((kind, list.items)),
                // A kind whose definition went away between the discovery and now has no objects.
                Err(kube::Error::Api(status)) if status.is_not_found() => Ok((kind, Vec::new())),
                Err(error) => Err(error).with_context(|| format!("listing {}", kind.plural)),
            }
        });
        let mut snapshot = Snapshot::new();
        for (kind, items) in futures::future::try_join_all(lists).await? {
            for item in items {
                let name = format!("{}/{}", kind.kind, item.name_any());
                snapshot.insert(name, Mark::of(&item));
            }
        }
        Ok(snapshot)
    }
}

/// The objects that differ between two snapshots, in words.
pub(crate) fn changes(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let gone = before
        .keys()
        .filter(|name| !after.contains_key(*name))
        .map(|name| format!("{name} is gone"));
    let changed = after
        .iter()
        .filter_map(|(name, mark)| match before.get(name) {
            None => Some(format!("{name} is new")),
            Some(old) if old != mark => Some(format!("{name} was written")),
            Some(_) => None,
        });
    gone.chain(changed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_was_made_written_or_removed_is_a_change() {
        let snapshot = |objects: &[(&str, &str)]| -> Snapshot {
            objects
                .iter()
                .map(|(name, version)| {
                    let mark = Mark {
                        uid: (*name).to_owned(),
                        version: (*version).to_owned(),
                    };
                    ((*name).to_owned(), mark)
                })
                .collect()
        };
        let before = snapshot(&[("Pod/a", "1"), ("Pod/b", "2"), ("Pod/c", "3")]);
        let after = snapshot(&[("Pod/a", "1"), ("Pod/b", "4"), ("Pod/d", "5")]);
        assert_eq!(
            changes(&before, &after),
            ["Pod/c is gone", "Pod/b was written", "Pod/d is new"]
        );
        assert!(changes(&before, &before).is_empty());
    }
}
