"""Files of users, read and written: profiles, settings, plain problems, manifests; every writing is atomic."""
