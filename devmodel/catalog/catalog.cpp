namespace airlock::catalog
{
} // namespace airlock::catalog
