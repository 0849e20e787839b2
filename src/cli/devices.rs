//! `novastack devices`: what this program could run on, and why not on the rest.

use novastack::backend::cpu::simd::Isa;
use novastack::backend::hip::discover::{Device, Found, Library, discover};

pub fn run() {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let isa = format!("{:?}", Isa::best());
    println!("cpu     {threads} threads, {}", isa.split('(').next().unwrap_or_default());
    for Found { vendor, library } in discover() {
        let scheme = vendor.scheme();
        match library {
            Err(reason) => println!("{scheme:<7} none: {reason}"),
            Ok(Library { path, version, devices }) => {
                println!("{scheme:<7} {path}, version {version}, {} devices", devices.len());
                for (number, device) in devices.into_iter().enumerate() {
                    let id = format!("{scheme}:{number}");
                    match device {
                        Err(reason) => println!("{id:<7} does not answer: {reason}"),
                        Ok(device) => println!("{id:<7} {}", described(&device)),
                    }
                }
            }
        }
    }
}

fn described(Device { info, kernels }: &Device) -> String {
    let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
    let text = format!(
        "{} ({}, {} compute units), {:.1} of {:.1} GiB free",
        info.name,
        info.architecture,
        info.compute_units,
        gib(info.free_bytes),
        gib(info.total_bytes)
    );
    match kernels {
        Ok(architecture) => format!("{text}; kernels for {architecture}"),
        Err(reason) => format!("{text}; cannot be used: {reason}"),
    }
}
