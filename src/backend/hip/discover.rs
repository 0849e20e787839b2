//! What GPUs are there, what was tried, and why not.

use super::driver::{DeviceInfo, Driver, Vendor};
use super::kernels::architecture_for;

/// A vendor's library and its devices.
pub struct Found {
    /// Whose.
    pub vendor: Vendor,
    /// The library, or why there is none.
    pub library: Result<Library, String>,
}

/// An opened library.
pub struct Library {
    /// As it was opened.
    pub path: String,
    /// The driver's version number, as the vendor writes it.
    pub version: String,
    /// By number; what a device is, or why it does not answer.
    pub devices: Vec<Result<Device, String>>,
}

/// A device.
pub struct Device {
    /// As its driver describes it.
    pub info: DeviceInfo,
    /// The embedded kernels that it runs, or why none.
    pub kernels: Result<&'static str, String>,
}

/// Looks for devices of both vendors.
pub fn discover() -> Vec<Found> {
    [Vendor::Amd, Vendor::Nvidia].map(|vendor| Found { vendor, library: library(vendor) }).into()
}

fn library(vendor: Vendor) -> Result<Library, String> {
    let driver = Driver::open(vendor).map_err(|error| error.to_string())?;
    let count = driver.device_count().map_err(|error| format!("{}: {error}", driver.path()))?;
    let devices = (0..count).map(|number| {
        let info = driver.describe(number).map_err(|error| error.to_string())?;
        let kernels = architecture_for(vendor, &info.architecture);
        Ok(Device { info, kernels })
    });
    Ok(Library {
        path: driver.path().to_owned(),
        version: driver.version().map_or("unknown".into(), |version| written(vendor, version)),
        devices: devices.collect(),
    })
}

/// HIP: major * 10^7 + minor * 10^5 + patch. CUDA: major * 1000 + minor * 10.
fn written(vendor: Vendor, version: i32) -> String {
    match vendor {
        Vendor::Amd => {
            format!("{}.{}.{}", version / 10_000_000, version / 100_000 % 100, version % 100_000)
        }
        Vendor::Nvidia => format!("{}.{}", version / 1000, version % 1000 / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_written_as_their_vendors_do() {
        assert_eq!(written(Vendor::Amd, 60_342_133), "6.3.42133");
        assert_eq!(written(Vendor::Nvidia, 12_040), "12.4");
    }
}
