//! What a driver gets of this machine: variables, folders for all that it writes, paths that it may reach. Used on both
//! sides: by the node, which starts the processes, and in them.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::worker::Reach;

/// Variables that drivers and loaders read: names, or beginnings of names that end in an underscore. All else of the
/// node's environment stays with the node.
const DRIVER_VARIABLES: [&str; 15] = [
    "PATH",
    "LANG",
    "LD_LIBRARY_PATH",
    "OCL_",
    "OPENCL_",
    "POCL_",
    "CUDA_",
    "NVIDIA_",
    "GPU_",
    "AMD_",
    "HSA_",
    "ROCR_",
    "ZE_",
    "NEO_",
    "MESA_",
];

/// Whether a variable of the environment is for drivers.
fn for_drivers(name: &str) -> bool {
    DRIVER_VARIABLES.iter().any(|known| if known.ends_with('_') { name.starts_with(known) } else { name == *known })
}

/// The environment of processes that open drivers: what drivers read, and folders below `cache` for all that they write.
pub fn environment(cache: &Path) -> Vec<(OsString, OsString)> {
    let mut variables: Vec<(OsString, OsString)> =
        std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(for_drivers)).collect();
    let folder = |name: &str| cache.join(name).into_os_string();
    // Where drivers keep their own caches; a setting of the node's environment stays.
    let defaults = [
        ("HOME", "home"),
        ("TMPDIR", "tmp"),
        ("XDG_CACHE_HOME", "home"),
        ("POCL_CACHE_DIR", "pocl"),
        ("CUDA_CACHE_PATH", "nv"),
    ];
    for (name, below) in defaults {
        if !variables.iter().any(|(known, _)| known == name) {
            variables.push((name.into(), folder(below)));
        }
    }
    variables.push(("PROOFGPU_CACHE".into(), folder("kernels")));
    variables
}

/// Makes the folders that [`environment`] names.
///
/// # Errors
/// When one can't be made.
pub fn make_folders(cache: &Path) -> io::Result<()> {
    ["home", "tmp", "pocl", "nv", "kernels"].into_iter().try_for_each(|name| std::fs::create_dir_all(cache.join(name)))
}

/// What a device's process needs of the file system beside what all drivers need: its own binary, the folders of
/// [`environment`], and what the environment names.
pub fn reach(variable: impl Fn(&str) -> Option<OsString>) -> Reach {
    let mut reach = Reach::default();
    reach.read.extend(std::env::current_exe());
    // The root and what is relative to the folder of the moment would open far more than a driver.
    let is_place = |path: &PathBuf| path.is_absolute() && path.parent().is_some();
    for name in ["LD_LIBRARY_PATH", "OCL_ICD_VENDORS", "OPENCL_VENDOR_PATH"] {
        reach.read.extend(variable(name).iter().flat_map(std::env::split_paths).filter(is_place));
    }
    for name in ["HOME", "TMPDIR", "XDG_CACHE_HOME", "POCL_CACHE_DIR", "CUDA_CACHE_PATH", "PROOFGPU_CACHE"] {
        reach.write.extend(variable(name).map(PathBuf::from));
    }
    // A vendors folder holds the paths of drivers, which may lie anywhere.
    for name in ["OCL_ICD_VENDORS", "OPENCL_VENDOR_PATH"] {
        let folder = variable(name).map_or_else(|| PathBuf::from("/etc/OpenCL/vendors"), PathBuf::from);
        let files = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
        for file in files.chain([folder.clone()]).filter(|file| file.extension().is_some_and(|e| e == "icd")) {
            let driver = std::fs::read_to_string(file).unwrap_or_default();
            let driver = PathBuf::from(driver.lines().next().unwrap_or_default().trim());
            reach
                .read
                .extend([driver.parent().map(PathBuf::from), Some(driver)].into_iter().flatten().filter(is_place));
        }
    }
    reach
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_get_their_variables_and_no_others() {
        for name in ["OCL_ICD_VENDORS", "POCL_DEVICES", "PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"] {
            assert!(for_drivers(name), "{name}");
        }
        for name in ["PROOFMESH_HOME", "PATHS", "AWS_SECRET_ACCESS_KEY", "LD_PRELOAD", "OCL"] {
            assert!(!for_drivers(name), "{name}");
        }
        let environment = environment(Path::new("/cache"));
        assert!(environment.contains(&("PROOFGPU_CACHE".into(), "/cache/kernels".into())));
        assert!(environment.iter().any(|(name, _)| name == "HOME"));
    }

    #[test]
    fn drivers_in_unusual_places_are_reached() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("one.icd"), "/elsewhere/lib/libone.so\n").unwrap();
        std::fs::write(folder.path().join("two.icd"), "libtwo.so\n").unwrap();
        std::fs::write(folder.path().join("three.icd"), "/libthree.so\n").unwrap();
        std::fs::write(folder.path().join("notes.txt"), "/secret/file\n").unwrap();
        let variable = |name: &str| match name {
            "OCL_ICD_VENDORS" => Some(folder.path().into()),
            "LD_LIBRARY_PATH" => Some("/a:/b:/:here:".into()),
            "HOME" => Some("/cache/home".into()),
            _ => None,
        };
        let reach = reach(variable);
        for path in [folder.path(), Path::new("/elsewhere/lib"), Path::new("/a"), Path::new("/b")] {
            assert!(reach.read.iter().any(|known| known == path), "{}: {reach:?}", path.display());
        }
        assert!(!reach.read.iter().any(|path| path.starts_with("/secret") || path.as_os_str() == "/"), "{reach:?}");
        assert!(reach.read.iter().all(|path| path.is_absolute()), "{reach:?}");
        assert_eq!(reach.write, [Path::new("/cache/home")]);
    }
}
