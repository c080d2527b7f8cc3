"""A configuration of NativeLink, of the shape that is recommended for production there."""

PRODUCTION = """{
  stores: [
    {
      name: "CAS_MAIN_STORE",
      existence_cache: {backend: {verify: {
        verify_size: true,
        verify_hash: true,
        backend: {fast_slow: {
          fast: {size_partitioning: {
            size: "64kb",
            lower_store: {memory: {eviction_policy: {max_bytes: "1gb", max_count: 100000}}},
            upper_store: {noop: {}},  // large blobs are read from the disk
          }},
          slow: {compression: {
            compression_algorithm: {lz4: {}},
            backend: {filesystem: {
              content_path: "${DATA:-data}/content_path-cas",
              temp_path: "${DATA:-data}/tmp_path-cas",
              eviction_policy: {max_bytes: "10Gb"},
            }},
          }},
        }},
      }}},
    },
    {
      name: "AC_MAIN_STORE",
      completeness_checking: {
        backend: {fast_slow: {
          fast: {size_partitioning: {
            size: "1kb",
            lower_store: {memory: {eviction_policy: {max_bytes: "100mb", max_count: 150000}}},
            upper_store: {noop: {}},
          }},
          slow: {filesystem: {
            content_path: "${DATA:-data}/content_path-ac",
            temp_path: "${DATA:-data}/tmp_path-ac",
            eviction_policy: {max_bytes: "1gb"},
          }},
        }},
        cas_store: {ref_store: {name: "CAS_MAIN_STORE"}},
      },
    },
  ],
  schedulers: [{
    name: "MAIN_SCHEDULER",
    simple: {supported_platform_properties: {cpu_count: "priority", OSFamily: "priority", ISA: "exact"}},
  }],
  servers: [
    {
      listener: {http: {socket_address: "0.0.0.0:50051"}},
      services: {
        cas: [{cas_store: "CAS_MAIN_STORE"}],
        ac: [{ac_store: "AC_MAIN_STORE"}],
        capabilities: [{remote_execution: {scheduler: "MAIN_SCHEDULER"}}],
        execution: [{cas_store: "CAS_MAIN_STORE", scheduler: "MAIN_SCHEDULER"}],
        bytestream: {cas_stores: {"": "CAS_MAIN_STORE"}},
      },
    },
    {
      listener: {http: {socket_address: "0.0.0.0:50052", tls: {cert_file: "cert.pem", key_file: "key.pem"}}},
      services: {cas: [{cas_store: "CAS_MAIN_STORE"}], ac: [{ac_store: "AC_MAIN_STORE"}]},
    },
    {
      listener: {http: {socket_address: "0.0.0.0:50061"}},
      services: {worker_api: {scheduler: "MAIN_SCHEDULER"}, health: {}},
    },
  ],
}
"""
