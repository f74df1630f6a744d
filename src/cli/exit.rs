//! How a command ends: its exit code, and its message.

use std::fmt;
use std::process::ExitCode;

use crate::agent::StartError;
use crate::config::ConfigError;
use crate::fault::FaultKind;
use crate::operate::{NamedError, OperateError, PauseError, SeedError, VerifyError};
use crate::region::ConnectError;

/// How a command ends. The numbers are those of `sysexits.h` where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    /// The replicas differ, or what was waited for did not arrive in time.
    Differs,
    /// The command line or the configuration is wrong.
    Usage,
    /// A region can't be reached, or a table is missing or does not fit.
    Unavailable,
    /// An internal error.
    Internal,
    /// Credentials or permissions are refused.
    Refused,
    /// Stopped at once, by a second signal.
    Interrupted,
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Differs => 1,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::Refused => 77,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl From<FaultKind> for Exit {
    fn from(kind: FaultKind) -> Self {
        match kind {
            FaultKind::Refused => Self::Refused,
            FaultKind::Throttled
            | FaultKind::HotPartition
            | FaultKind::Unreachable
            | FaultKind::Missing
            | FaultKind::Invalid => Self::Unavailable,
        }
    }
}

/// Why a command failed, for a person.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    pub(super) fn internal(error: impl fmt::Display) -> Self {
        Self::new(Exit::Internal, error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Usage, error)
    }
}

impl From<&StartError> for Exit {
    fn from(error: &StartError) -> Self {
        match error {
            StartError::UnknownRegion(..) | StartError::NoTable(_) => Self::Usage,
            StartError::Connect(_) => Self::Refused,
            StartError::Fault { fault, .. } => fault.kind.into(),
            StartError::NotReady { .. } => Self::Unavailable,
            StartError::BrokeDown { .. } => Self::Internal,
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self::new(Exit::from(&error), error)
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::new(Exit::Refused, error)
    }
}

impl From<OperateError> for Failure {
    fn from(error: OperateError) -> Self {
        Self::new(error.fault.kind.into(), error)
    }
}

impl From<NamedError> for Failure {
    fn from(error: NamedError) -> Self {
        match error {
            NamedError::Operate(error) => error.into(),
            NamedError::Unknown { .. } => Self::new(Exit::Usage, error),
        }
    }
}

impl From<PauseError> for Failure {
    fn from(error: PauseError) -> Self {
        match error {
            PauseError::Operate(error) => error.into(),
            PauseError::TooLong { .. } => Self::new(Exit::Usage, error),
        }
    }
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Operate(error) => error.into(),
            VerifyError::Disk(_) => Self::internal(error),
        }
    }
}

impl From<SeedError> for Failure {
    fn from(error: SeedError) -> Self {
        match error {
            SeedError::Operate(error) => error.into(),
            SeedError::Named(error) => error.into(),
            SeedError::Verify(error) => error.into(),
            SeedError::NotServed { .. }
            | SeedError::NotPassed { .. }
            | SeedError::Busy { .. }
            | SeedError::Lost { .. } => Self::new(Exit::Unavailable, error),
        }
    }
}
