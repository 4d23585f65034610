//! Names and indices. A name is what people and the cloud see; an index is where the
//! running configuration keeps the thing. Indices are never stored on disk.

use std::fmt;
use std::sync::Arc;

macro_rules! name {
    ($(#[$doc:meta])* $ty:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $ty(Arc<str>);

        impl $ty {
            pub fn new(text: &str) -> Self {
                Self(Arc::from(text))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl From<&str> for $ty {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }
    };
}

name!(
    /// The gateway's own name, the first level of its topics.
    GatewayName
);
name!(
    /// One serial line or one TCP endpoint.
    BusName
);
name!(
    /// One device behind the gateway; unique in the configuration.
    DeviceName
);
name!(
    /// One command of a device; unique in its device.
    CommandName
);
name!(
    /// One value of a device; unique in its device.
    PointName
);

/// The place of a device in [`crate::config::Config::devices`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceIndex(pub u32);

impl DeviceIndex {
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

/// The place of a point in its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointIndex(pub u16);

impl PointIndex {
    pub fn at(self) -> usize {
        usize::from(self.0)
    }
}

/// The most points one device may have: [`PointIndex`] is 16 bits wide.
pub const POINTS_PER_DEVICE_MAX: usize = 10_000;

/// The most devices one gateway may have.
pub const DEVICES_MAX: usize = 10_000;
