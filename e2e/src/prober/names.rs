//! Names of Services, looked up once: what is proved here is not the cluster's name service, which programs that ask it for
//! every request can overwhelm, and a Service keeps its address for as long as it is there.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

type Known = Mutex<HashMap<String, Vec<SocketAddr>>>;

/// Looks a name up until there is an answer, and never again. Of one process, all are one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remembered;

impl Remembered {
    /// To be given to a client.
    pub(super) fn shared() -> Arc<Self> {
        Arc::new(Self)
    }

    fn known() -> &'static Known {
        static KNOWN: OnceLock<Known> = OnceLock::new();
        KNOWN.get_or_init(Known::default)
    }
}

impl Resolve for Remembered {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let lock = || Self::known().lock().unwrap_or_else(PoisonError::into_inner);
            let remembered = lock().get(name.as_str()).cloned();
            let found = match remembered {
                Some(found) => found,
                None => {
                    let found: Vec<SocketAddr> =
                        tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
                    lock().insert(name.as_str().to_owned(), found.clone());
                    found
                }
            };
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_looked_up_once() {
        let ask = || async {
            let found = Remembered.resolve("localhost".parse().unwrap()).await;
            found.map(Iterator::collect::<Vec<_>>)
        };
        let first = ask().await.unwrap();
        assert!(!first.is_empty());
        let changed = vec![SocketAddr::from(([127, 0, 0, 9], 0))];
        let known = || Remembered::known().lock().unwrap();
        known().insert("localhost".to_owned(), changed.clone());
        assert_eq!(ask().await.unwrap(), changed);
    }
}
