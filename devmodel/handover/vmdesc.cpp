namespace airlock::handover
{
} // namespace airlock::handover
