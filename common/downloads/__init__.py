"""Files from elsewhere: fetched, compared and unpacked."""
