//! The generated password.

use std::collections::BTreeMap;

use cachecluster_contract::{labels, names, paths};
use cachecluster_redis_admin::Password;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rand::TryRngCore;
use rand::rngs::OsRng;

use super::metadata;
use crate::reconcile::validate::ValidatedCluster;

/// Length of a generated password: 32 of 64 characters are 192 bits.
const LENGTH: usize = 32;
/// 64 characters that need no quoting anywhere, so that 6 bits choose one without bias.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A new password from the operating system's randomness.
#[must_use]
pub fn random() -> Password {
    let mut bytes = [0_u8; LENGTH];
    // It fails only where the kernel has no such source; a weak password would be worse than a stop.
    #[allow(clippy::expect_used)]
    OsRng
        .try_fill_bytes(&mut bytes)
        .expect("the operating system has a source of randomness");
    Password::new(
        bytes
            .iter()
            .map(|byte| char::from(ALPHABET[usize::from(byte % 64)]))
            .collect::<String>(),
    )
}

/// The Secret with the cluster's password. It is created when there is none, and never written again.
#[must_use]
pub fn auth_secret(cluster: &ValidatedCluster) -> Secret {
    let password = cluster.auth.password.expose().as_bytes().to_vec();
    Secret {
        // Not immutable, though nothing should change it: a kubelet never reads an immutable Secret again while one of
        // its pods uses it, and would give the password of a deleted cluster to pods of a new one of the same name.
        metadata: metadata(
            cluster,
            names::auth(&cluster.name),
            labels::COMPONENT_REDIS,
            None,
        ),
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from([(
            paths::PASSWORD_KEY.to_owned(),
            ByteString(password),
        )])),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reconcile::fixture::valid;

    #[test]
    fn generated_passwords_are_long_and_never_the_same() {
        let (one, other) = (random(), random());
        assert_eq!(one.expose().len(), LENGTH);
        assert_ne!(one, other);
    }

    #[test]
    fn kubelets_read_the_secret_of_a_new_cluster_while_pods_of_a_deleted_one_use_the_former() {
        assert_eq!(auth_secret(&valid(json!({}))).immutable, None);
    }
}
