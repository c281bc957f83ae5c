"""A local web page that shows slides with their objects, and saves corrections."""
