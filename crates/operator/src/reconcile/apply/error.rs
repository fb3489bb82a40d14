//! Why an object is not in its wanted form.

use cachecluster_crd::conditions::reason;

use crate::reconcile::pods::bounded;
use crate::reconcile::validate::Rejection;

/// Longest account of a refusal, in characters: some repeat the whole object.
const LONGEST: usize = 500;
/// HTTP's status for an object that is well-formed and makes no sense.
const UNPROCESSABLE: u16 = 422;

/// What the API server said, without what only programs read.
#[must_use]
pub fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

/// Why an object is not in its wanted form.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// An object of that name exists and belongs to somebody else. It is not touched.
    #[error("{kind} {name} exists and does not belong to this CacheCluster: delete or rename it")]
    NameTaken {
        /// Kind of object.
        kind: String,
        /// Its name.
        name: String,
    },
    /// An object of that name is on its way out: its former owner was deleted, or it was itself.
    #[error("{kind} {name} is still being deleted")]
    BeingDeleted {
        /// Kind of object.
        kind: String,
        /// Its name.
        name: String,
    },
    /// The port that the API shall have on every node cannot be had: out of the range, or somebody else's.
    #[error("spec.api.service.nodePort {port}: {why}: choose another one, or leave it out")]
    NodePort {
        /// The port.
        port: u16,
        /// What the API server has against it.
        why: String,
    },
    /// The API server takes the object in no case: something in the spec cannot be.
    #[error("{kind} {name} is refused, change the spec: {why}")]
    Invalid {
        /// Kind of object.
        kind: String,
        /// Its name.
        name: String,
        /// What the API server has against it.
        why: String,
    },
    /// An object has no form in JSON.
    #[error("{kind} {name}: {source}")]
    Encode {
        /// Kind of object.
        kind: String,
        /// Its name.
        name: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The API server refused or did not answer.
    #[error("{kind} {name}: {}", said(source))]
    Request {
        /// Kind of object.
        kind: String,
        /// Its name.
        name: String,
        /// Why.
        source: kube::Error,
    },
}

impl ApplyError {
    /// What the API server said of an object that was to be applied.
    pub(super) fn of_answer(kind: &str, name: &str, source: kube::Error) -> Self {
        let (kind, name) = (kind.to_owned(), name.to_owned());
        match &source {
            kube::Error::Api(status) if status.code == UNPROCESSABLE => {
                let said = said(&source);
                // Its words begin with the object: `Service "demo-api" is invalid: `.
                let prefix = format!("\"{name}\" is invalid: ");
                let why = said.split_once(&prefix).map_or(said.as_str(), |it| it.1);
                let why = bounded(why, LONGEST);
                Self::Invalid { kind, name, why }
            }
            _ => Self::Request { kind, name, source },
        }
    }

    /// What the API server has against the port of the API's Service, if that is what it refused.
    pub(super) fn of_node_port(port: u16, error: &kube::Error) -> Option<Self> {
        let kube::Error::Api(status) = error else {
            return None;
        };
        let causes = &status.details.as_ref()?.causes;
        let cause = causes.iter().find(|it| it.field.ends_with(".nodePort"))?;
        let why = cause.message.as_str();
        // Its words begin with the value.
        let why = why.rsplit_once(&format!("{port}: ")).map_or(why, |it| it.1);
        let why = why.trim_end_matches('.').to_owned();
        Some(Self::NodePort { port, why })
    }

    /// What somebody has to change before the spec can be acted upon, if that is what it takes. No watch tells of it.
    #[must_use]
    pub fn rejection(&self) -> Option<Rejection> {
        let reason = match self {
            Self::NameTaken { .. } => reason::NAME_TAKEN,
            Self::NodePort { .. } => reason::NODE_PORT_UNAVAILABLE,
            Self::Invalid { .. } => reason::INVALID_SPEC,
            Self::BeingDeleted { .. } | Self::Encode { .. } | Self::Request { .. } => return None,
        };
        Some(Rejection {
            reason,
            message: self.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(field: &str, message: &str) -> kube::Error {
        let status = json!({
            "status": "Failure", "code": 422, "reason": "Invalid", "message": "Service \"demo-api\" is invalid",
            "details": {"kind": "Service", "name": "demo-api",
                "causes": [{"reason": "FieldValueInvalid", "message": message, "field": field}]},
        });
        kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()))
    }

    #[test]
    fn a_port_that_cannot_be_had_is_named_with_the_reason() {
        let field = "spec.ports[0].nodePort";
        for (message, why) in [
            (
                "Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767",
                "provided port is not in the valid range. The range of valid ports is 30000-32767",
            ),
            (
                "Invalid value: 80: provided port is already allocated",
                "provided port is already allocated",
            ),
        ] {
            let error = ApplyError::of_node_port(80, &refused(field, message)).unwrap();
            let rejection = error.rejection().unwrap();
            assert_eq!(rejection.reason, "NodePortUnavailable");
            assert_eq!(
                rejection.message,
                format!("spec.api.service.nodePort 80: {why}: choose another one, or leave it out")
            );
        }
    }

    #[test]
    fn an_object_that_makes_no_sense_is_the_specs_fault_and_other_failures_are_not() {
        let status = |code: u16| {
            let message = "Deployment.apps \"demo-api\" is invalid: spec: must not be";
            let status = json!({"status": "Failure", "code": code, "message": message});
            kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()))
        };
        let error = ApplyError::of_answer("Deployment", "demo-api", status(422));
        let rejection = error.rejection().unwrap();
        assert_eq!(rejection.reason, "InvalidSpec");
        assert_eq!(
            rejection.message,
            "Deployment demo-api is refused, change the spec: spec: must not be"
        );
        for code in [400, 403, 409, 500] {
            let error = ApplyError::of_answer("Deployment", "demo-api", status(code));
            assert!(error.rejection().is_none(), "{code}");
        }
    }

    #[test]
    fn other_refusals_are_left_as_they_are() {
        assert!(ApplyError::of_node_port(80, &refused("spec.type", "Unsupported value")).is_none());
        let silent = kube::Error::Api(Box::default());
        assert!(ApplyError::of_node_port(80, &silent).is_none());
    }
}
