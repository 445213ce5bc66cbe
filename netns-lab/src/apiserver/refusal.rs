//! Why a request was refused, as a Kubernetes `Status` object.

use std::fmt;

use serde_json::{Value, json};

use super::Resource;

/// A refused request: an HTTP code, the machine-readable reason, and the words for people.
///
/// The reasons are those of `metav1.StatusReason` (apimachinery, `pkg/apis/meta/v1/types.go`).
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// HTTP status code.
    pub code: u16,
    /// `metav1.StatusReason`, such as `NotFound`.
    pub reason: &'static str,
    /// What was wrong and what is accepted.
    pub message: String,
    /// `details` of the Status object; null where there are none.
    pub details: Value,
}

/// One field that was found wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) reason: &'static str,
    pub(crate) field: String,
    pub(crate) message: String,
}

impl Cause {
    /// The value of `field` is wrong; `message` says which value and what is accepted.
    pub(crate) fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason: "FieldValueInvalid",
            field: field.into(),
            message: message.into(),
        }
    }

    /// `field` has to be there.
    pub(crate) fn required(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason: "FieldValueRequired",
            field: field.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} ({} {})",
            self.message, self.code, self.reason
        )
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
        }
    }

    fn about(mut self, resource: Resource, name: &str) -> Self {
        let description = resource.description();
        self.details =
            json!({"name": name, "group": description.group, "kind": description.plural});
        self
    }

    pub(crate) fn not_found(resource: Resource, name: &str) -> Self {
        let message = format!("{} {name:?} not found", resource.qualified());
        Self::new(404, "NotFound", message).about(resource, name)
    }

    pub(crate) fn no_such_path(path: &str) -> Self {
        Self::new(
            404,
            "NotFound",
            format!("the server could not find the path {path:?}"),
        )
    }

    pub(crate) fn already_exists(resource: Resource, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", resource.qualified());
        Self::new(409, "AlreadyExists", message).about(resource, name)
    }

    pub(crate) fn conflict(resource: Resource, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            resource.qualified()
        );
        Self::new(409, "Conflict", message).about(resource, name)
    }

    pub(crate) fn invalid(resource: Resource, name: &str, causes: &[Cause]) -> Self {
        let said: Vec<String> = causes
            .iter()
            .map(|cause| format!("{}: {}", cause.field, cause.message))
            .collect();
        let message = format!(
            "{} {name:?} is invalid: {}",
            resource.description().kind,
            said.join(", ")
        );
        let mut refusal = Self::new(422, "Invalid", message).about(resource, name);
        refusal.details["causes"] = causes
            .iter()
            .map(|cause| {
                json!({"reason": cause.reason, "message": cause.message, "field": cause.field})
            })
            .collect();
        refusal
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// The history no longer reaches back to `asked`.
    pub(crate) fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(
            410,
            "Expired",
            format!("too old resource version: {asked} ({oldest})"),
        )
    }

    /// What another server's Status object says.
    pub(crate) fn of_status(code: u16, status: &Value) -> Self {
        const REASONS: [&str; 7] = [
            "NotFound",
            "AlreadyExists",
            "Conflict",
            "Invalid",
            "Forbidden",
            "Expired",
            "BadRequest",
        ];
        let said = status["reason"].as_str();
        let reason = REASONS.into_iter().find(|reason| said == Some(*reason));
        let message = status["message"].as_str().unwrap_or("no reason given");
        Self {
            details: status["details"].clone(),
            ..Self::new(code, reason.unwrap_or("InternalError"), message)
        }
    }

    /// The Status object that says this.
    #[must_use]
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}
