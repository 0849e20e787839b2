//! `--device`: what a model is computed on.

use crate::backend::hip::discover::discover;
use crate::backend::hip::driver::Vendor;

/// As it is written on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPUs that there are kernels for, else the CPU.
    Auto,
    /// This machine's CPU.
    Cpu,
    /// GPUs by their numbers, which share the model.
    Gpus(Vendor, Vec<usize>),
}

impl DeviceChoice {
    /// `cpu`, `auto`, `hip:0`, `cuda:0,1`.
    ///
    /// # Errors
    /// What is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "cpu" => return Ok(Self::Cpu),
            "auto" => return Ok(Self::Auto),
            _ => {}
        }
        let gpus = || {
            let (scheme, list) = text.split_once(':')?;
            let vendor =
                [Vendor::Amd, Vendor::Nvidia].into_iter().find(|vendor| vendor.scheme() == scheme)?;
            let numbers: Vec<usize> = list.split(',').map(|n| n.parse().ok()).collect::<Option<_>>()?;
            let twice = numbers.iter().enumerate().any(|(at, n)| numbers[..at].contains(n));
            (!twice).then_some(Self::Gpus(vendor, numbers))
        };
        gpus().ok_or_else(|| {
            "must be auto, cpu, hip:N or cuda:N, or several numbers (hip:0,1), each once, as `novastack devices` lists them"
                .into()
        })
    }

    /// Equal shares for so many replicas of a model, in order; a replica's ranks are `ranks`.
    ///
    /// # Errors
    /// There are no equal shares.
    pub fn shares(&self, replicas: usize, ranks: usize) -> Result<Vec<Self>, String> {
        match self.decided(ranks * replicas) {
            Self::Gpus(vendor, numbers) if numbers.len() % replicas == 0 => {
                let shares = numbers.chunks(numbers.len() / replicas);
                Ok(shares.map(|share| Self::Gpus(vendor, share.to_vec())).collect())
            }
            Self::Gpus(_, numbers) => Err(format!(
                "{} GPUs cannot be shared evenly by {replicas} replicas: name a multiple of them in `device`",
                numbers.len()
            )),
            cpu => Ok(vec![cpu; replicas]),
        }
    }

    /// With `auto` decided: the first `count` devices of one vendor that have kernels.
    pub fn decided(&self, count: usize) -> Self {
        if *self != Self::Auto {
            return self.clone();
        }
        for found in discover() {
            let Ok(library) = found.library else { continue };
            let devices = library.devices.iter().enumerate();
            let runs = devices.filter(|(_, device)| device.as_ref().is_ok_and(|it| it.kernels.is_ok()));
            let numbers: Vec<usize> = runs.map(|(number, _)| number).take(count).collect();
            if numbers.len() == count {
                let device = Self::Gpus(found.vendor, numbers);
                tracing::info!(%device, "--device auto");
                return device;
            }
        }
        tracing::info!(wanted = count, "--device auto: the CPU, as there are not so many GPUs with kernels");
        Self::Cpu
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Gpus(vendor, numbers) => {
                let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
                write!(f, "{}:{}", vendor.scheme(), numbers.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_as_written() {
        for text in ["auto", "cpu", "hip:0", "hip:0,1,2", "cuda:7"] {
            assert_eq!(DeviceChoice::parse(text).expect(text).to_string(), text);
        }
        for bad in ["gpu", "hip", "hip:", "hip:0,", "hip:0,0", "rocm:0", "hip:-1", "cuda:x"] {
            assert!(DeviceChoice::parse(bad).is_err(), "{bad}");
        }
    }
}
