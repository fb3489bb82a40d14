//! Reads Prometheus's text format as far as the scenarios need it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use kube::Client;

/// One sample: the labels and the value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    labels: BTreeMap<String, String>,
    /// The value.
    pub(crate) value: f64,
}

impl Sample {
    /// A label's value; empty if there is no such label.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// The samples of one metric. Lines that are not understood are left out.
pub(crate) fn samples(text: &str, metric: &str) -> Vec<Sample> {
    text.lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(metric)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.split_once('}')?,
                None if rest.starts_with(' ') => ("", rest),
                None => return None,
            };
            Some(Sample {
                labels: read_labels(labels),
                value: value.split_whitespace().next()?.parse().ok()?,
            })
        })
        .collect()
}

/// `a="1",b="2"`. Values with quotes or commas in them do not occur in what is asked for here.
fn read_labels(text: &str) -> BTreeMap<String, String> {
    text.split("\",")
        .filter_map(|pair| pair.split_once("=\""))
        .map(|(name, value)| {
            (
                name.trim_start_matches(',').to_owned(),
                value.trim_end_matches('"').to_owned(),
            )
        })
        .collect()
}

/// A path of the API server as text.
///
/// # Errors
/// When it does not answer with a success.
pub(crate) async fn fetch(client: &Client, path: &str) -> Result<String> {
    let request = http::Request::get(path)
        .body(Vec::new())
        .with_context(|| format!("the path {path}"))?;
    client
        .request_text(request)
        .await
        .with_context(|| format!("GET {path}"))
}

/// What a pod's `/metrics` says, through the API server.
///
/// # Errors
/// When the pod does not answer.
pub(crate) async fn of_pod(
    client: &Client,
    namespace: &str,
    pod: &str,
    port: u16,
) -> Result<String> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/metrics");
    fetch(client, &path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# TYPE apiserver_request_total counter
apiserver_request_total{code="200",group="apps",verb="APPLY"} 12
apiserver_request_total{code="201",group="",verb="POST"} 3
apiserver_request_total_other{code="201"} 9
process_resident_memory_bytes 2.5165824e+07
"#;

    #[test]
    fn samples_have_labels_and_a_value() {
        let requests = samples(TEXT, "apiserver_request_total");
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[0].label("verb"), "APPLY");
        assert_eq!(requests[1].label("group"), "");
        assert_eq!((requests[0].value, requests[1].value), (12.0, 3.0));
    }

    #[test]
    fn a_metric_without_labels_is_read_too() {
        let memory = samples(TEXT, "process_resident_memory_bytes");
        assert_eq!(memory.len(), 1);
        assert_eq!(memory[0].value, 25_165_824.0);
    }
}
