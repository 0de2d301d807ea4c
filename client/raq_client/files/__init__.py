"""Read and write files of users: profiles, settings, plain problems, manifests; all writes are atomic."""
