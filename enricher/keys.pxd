# The keys that are made for each pod.

cpdef bytes address(str text)
cpdef bytes container(str container_id)
cpdef bytes pod(str uid)
